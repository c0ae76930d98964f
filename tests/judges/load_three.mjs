// Loads a GLB as a web page does and prints what it sees, as JSON:
// node load_three.mjs FILE.glb [SECONDS ...]
// With times, the first clip is played and the morph weights and bone turns at each are printed.
import { readFile } from "node:fs/promises";

globalThis.self = globalThis; // three's loaders expect a browser
const THREE = await import("three");
const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");

// Node cannot decode images: textures stay empty, and that is the only notice we silence.
const notice = console.error;
console.error = (...words) => {
  if (!String(words[0]).includes("Couldn't load texture")) notice(...words);
};

const file = await readFile(process.argv[2]);
const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const gltf = await new GLTFLoader().parseAsync(bytes, "");
const meshes = [];
const bones = [];
gltf.scene.traverse((object) => {
  if (object.isMesh) meshes.push(object);
  if (object.isBone) bones.push(object);
});

function describe(mesh) {
  const size = new THREE.Box3().setFromObject(mesh).getSize(new THREE.Vector3());
  return {
    name: mesh.name,
    skinned: mesh.isSkinnedMesh === true,
    vertices: mesh.geometry.attributes.position.count,
    targets: Object.keys(mesh.morphTargetDictionary ?? {}),
    size: size.toArray(),
  };
}

function sample(seconds) {
  mixer.setTime(seconds);
  gltf.scene.updateMatrixWorld(true);
  const point = new THREE.Vector3();
  return {
    seconds,
    influences: Object.fromEntries(meshes.map((m) => [m.name, [...(m.morphTargetInfluences ?? [])]])),
    quaternions: Object.fromEntries(bones.map((b) => [b.name, b.quaternion.toArray()])),
    // getVertexPosition applies morphs and skinning
    firstVertices: Object.fromEntries(
      meshes.map((m) => [m.name, [0, 1, 2, 3].map((i) => m.getVertexPosition(i, point).toArray())]),
    ),
  };
}

const mixer = new THREE.AnimationMixer(gltf.scene);
const times = process.argv.slice(3).map(Number);
let clip = null;
if (gltf.animations.length > 0) {
  const [first] = gltf.animations;
  const action = mixer.clipAction(first).setLoop(THREE.LoopOnce);
  action.clampWhenFinished = true;
  action.play();
  clip = { name: first.name, duration: first.duration };
}
console.log(
  JSON.stringify({
    meshes: meshes.map(describe),
    bones: bones.map((bone) => bone.name),
    clip,
    samples: times.map(sample),
  }),
);
