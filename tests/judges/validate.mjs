// Prints what Khronos' glTF validator finds in a file, as JSON: node validate.mjs FILE.glb
import { readFile } from "node:fs/promises";
import validator from "gltf-validator";

const bytes = new Uint8Array(await readFile(process.argv[2]));
const report = await validator.validateBytes(bytes, { maxIssues: 0, writeTimestamp: false });
console.log(JSON.stringify({ ...report.issues, ...report.info }));
