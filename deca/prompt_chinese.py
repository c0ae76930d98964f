"""The main words of Chinese prompts in English; what is not in the table stays as it is."""

# ruff: noqa: E501 - the lines are shorter in characters than in the columns counted

from __future__ import annotations

import re
from functools import cache

_CHINESE = re.compile(r"[\u3400-\u9fff]")

# English words between spaces; a noun after its adjectives, as in both languages
_TABLE = {
    "": "的 了 着 是 有 和 与 及 在 上 里 她 他 位 一位 一个 一名 一张 一幅 个 名 这 那 之 戴 戴着 佩戴 穿 穿着 身穿 "
        "留着 长着 拥有 带 带着 很 非常 一副 一顶 一件 一头 一双 一种 肖像 头像 画像 人像 照片里 的人 人物 人 一些 风格 拍摄 "
        "背景是 面部 脸部 表情 光线是 正在 看起来 左右 左侧的 画",
    "woman": "女性 女人 女子 女士 妇女 女",
    "girl": "女孩 少女 姑娘 美女 女生",
    "man": "男性 男人 男子 男士 男 先生",
    "boy": "男孩 男生", "teenage man": "少年 小伙子 小伙",
    "child": "儿童 孩子 小孩 小朋友",
    "little girl": "小女孩", "little boy": "小男孩",
    "young": "年轻 青年 年青", "middle aged": "中年", "old": "老年 年老 老 年长 老人 上了年纪",
    "old woman": "老奶奶 老太太 老妇人 奶奶", "old man": "老爷爷 老头 老翁 爷爷 老汉",
    "hair": "头发 发 秀发 发色 发型", "long hair": "长发 长头发", "short hair": "短发 短头发",
    "bob hair": "波波头 齐肩发 齐肩短发 齐肩", "fringe": "刘海 齐刘海",
    "bald": "光头 秃头 秃顶 没有头发", "cropped hair": "寸头 板寸",
    "silver hair": "银发", "white hair": "白发", "black hair": "黑发", "blonde hair": "金发",
    "red hair": "红发", "brown hair": "棕发 褐发", "pink hair": "粉发", "blue hair": "蓝发",
    "grey hair": "灰发", "purple hair": "紫发", "green hair": "绿发",
    "silver": "银色 银", "white": "白色 白", "black": "黑色 黑", "gold": "金色 金黄色 金黄",
    "red": "红色 红", "brown": "棕色 褐色 咖啡色 棕", "pink": "粉色 粉红色 粉红 粉",
    "blue": "蓝色 蓝", "green": "绿色 绿", "grey": "灰色 灰", "purple": "紫色 紫",
    "orange": "橙色 橘色", "yellow": "黄色 黄", "teal": "青色", "light blue": "浅蓝色 浅蓝 天蓝色",
    "dark blue": "深蓝色 深蓝 藏青色", "light brown": "浅棕色 浅褐色", "dark brown": "深棕色 深褐色",
    "dark green": "深绿色", "platinum": "白金色 铂金色 铂金", "auburn": "赤褐色 红棕色",
    "hazel": "榛色", "amber": "琥珀色", "violet": "紫罗兰色", "dark": "深色 暗色", "light": "浅色",
    "eyes": "眼睛 眼 眼眸 双眼 眸子 瞳", "big eyes": "大眼睛 大眼", "blue eyes": "蓝眼睛 碧眼 蓝眼",
    "green eyes": "绿眼睛 绿眼", "brown eyes": "棕眼睛", "eyes closed": "闭着眼睛 闭眼 闭上眼睛 闭目",
    "skin": "皮肤 肤色 肌肤", "dark skin": "深色皮肤 深肤色 黑皮肤 黝黑 黝黑皮肤",
    "fair skin": "白皙 白皙皮肤 皮肤白皙 浅肤色", "tanned skin": "古铜色皮肤 小麦色皮肤 小麦色",
    "beard": "胡子 胡须 络腮胡 大胡子 山羊胡", "stubble": "胡茬", "moustache": "小胡子 八字胡",
    "clean shaven": "没有胡子 无胡子 没胡子 无须",
    "glasses": "眼镜", "sunglasses": "墨镜 太阳镜 太阳眼镜", "hat": "帽子 帽",
    "freckles": "雀斑", "lipstick": "口红", "make up": "化妆 妆容 浓妆", "eye shadow": "眼影",
    "thick brows": "浓眉", "shirt": "衬衫 衬衣 上衣 衣服 T恤 t恤 毛衣 衫", "striped": "条纹",
    "cheerful": "开朗 开心 快乐 高兴 喜悦 愉快 幸福 欢快 友善", "smiling": "微笑 笑容 含笑",
    "laughing": "大笑 笑着 露齿笑 咧嘴笑", "sad": "悲伤 伤心 难过 忧郁 忧伤 悲哀",
    "angry": "愤怒 生气 恼怒 发怒", "surprised": "惊讶 吃惊 惊奇 震惊",
    "calm": "平静 冷静 严肃 沉稳 面无表情 安静", "worried": "担心 害怕 焦虑 恐惧",
    "winking": "眨眼", "kissing": "嘟嘴 亲吻", "speaking": "说话 讲话 唱歌",
    "three quarter view": "四分之三侧面 四分之三侧脸 四分之三 半侧面 半侧脸",
    "profile": "侧面 侧脸 侧身", "front view": "正面 正脸", "looking up": "仰头 抬头 仰望",
    "looking down": "低头", "head tilted": "歪头 侧头",
    "turned to the left": "向左 朝左 面向左", "turned to the right": "向右 朝右 面向右",
    "light ,": "光 灯光 光线 光照", "warm light ,": "暖光 暖色光 温暖的光 暖色调 暖光照",
    "cool light ,": "冷光 冷色光 冷色调", "soft light ,": "柔光 柔和的光 柔和光线 柔和的光线",
    "hard light ,": "硬光 强光", "dim light ,": "昏暗 暗光 昏暗的光", "bright light ,": "明亮 亮光",
    "warm": "温暖 暖色", "cool": "冷色", "soft": "柔和", "sunlight ,": "阳光",
    "background": "背景", "blurred background": "背景虚化 虚化背景 模糊背景",
    "park": "公园 森林 花园 户外 树林", "city at night": "城市夜景 夜景 城市 街道 霓虹灯",
    "sea": "大海 海边 海滩 海", "sunset": "日落 夕阳 黄昏 日出", "snow": "雪 雪地 雪景",
    "studio": "摄影棚 影棚 工作室", "starry sky": "星空 太空", "sky": "天空 蓝天", "wall": "墙 墙壁",
    "room": "房间 室内 办公室 咖啡馆",
    "anime style": "动漫风格 动漫 动画风格 卡通 卡通风格 漫画 漫画风格 二次元 日漫 赛璐璐 动画",
    "oil painting": "油画 油画风格", "pencil drawing": "铅笔画 素描 铅笔素描 速写 素描风格",
    "watercolour": "水彩 水彩画 水彩风格", "clay": "粘土 黏土 泥塑 雕塑 雕像 粘土风格 黏土风格 陶土",
    "neon": "霓虹 霓虹风格 赛博朋克 赛博朋克风格", "realistic": "写实 真实 照片 写真 逼真 写实风格",
    "no": "没有 没 无 不戴 不带 不 没戴 未戴 不留",
    "big": "大", "small": "小", "thick": "粗 浓", "round face": "圆脸", "long face": "长脸",
    "square face": "方脸", "big nose": "大鼻子", "high nose": "高鼻梁", "full lips": "厚嘴唇 丰满的嘴唇",
    "thin lips": "薄嘴唇", ",": "， 、 。 ； ！ ？ 着的",
}  # fmt: skip


def has_chinese(text: str) -> bool:
    """Whether there are Chinese characters in it."""
    return _CHINESE.search(text) is not None


def to_english(text: str) -> str:
    """The text with known Chinese words, the longest first, in English."""
    return _pattern().sub(lambda found: f" {_words()[found[0]]} ", text)


@cache
def _words() -> dict[str, str]:
    return {chinese: english for english, listed in _TABLE.items() for chinese in listed.split()}


@cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(_words(), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
