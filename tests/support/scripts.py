"""Made-up texts in many scripts, with the words that they are made of."""

from __future__ import annotations

import random

WORDS = {
    "zh": "今天 天气 我们 去 公园 散步 学校 许多 学生 学习 中文 老师 问题 大家 回答 朋友 "
    "住 北京 早上 喝 茶 看 报纸 工作 非常 忙 觉得 快乐 孩子 喜欢 音乐 运动 城市 "
    "经济 历史 文化 研究 科学 技术 买 书 电影 晚上 回家 妈妈 做饭 水果 苹果 时间 "
    "世界",
    "ja": "私 昨日 東京 友達 図書館 本 読む 天気 学校 先生 日本語 文法 説明 毎朝 コーヒー "
    "飲む 新聞 仕事 楽しい 音楽 運動 都市 経済 歴史 文化 研究 科学 技術 電車 乗る "
    "駅 歩く 映画 夜 料理 果物 りんご 時間 世界 から まで です ます",
    "th": "อากาศ ดี มาก เรา ไป ที่ สวน เด็ก อ่าน หนังสือ ภาษา ไทย ครู บอก ปัญหา ไม่ ยาก "
    "ตอบ ได้ เพื่อน ของ เขา อยู่ เช้า ดื่ม กาแฟ แล้ว ทำงาน แต่ มี ชอบ ดนตรี กีฬา "
    "เมือง วัฒนธรรม บ้าน แม่ น้ำ ข้าว ผลไม้ เวลา โลก",
    "ar": "ذهب الولد إلى المدرسة ثم عاد البيت اليوم كان الجو جميلا والناس في الحديقة يقرأ "
    "الطالب كتابا عن تاريخ المدينة وقال المعلم إن السؤال سهل جدا يعيش صديقي قرب "
    "البحر ويعمل كل صباح مع أصدقائه يحب الموسيقى والرياضة العلم الحديث واللغة "
    "العربية",
    "ru": "сегодня мы идём домой потому что стало поздно мальчик читает книгу о городе "
    "учитель сказал вопрос очень простой мой друг живёт у моря каждое утро он пьёт "
    "чай и работает люди любят музыку спорт наука современная история культура "
    "экономика язык Москва Россия Анна",
    "hi": "आज हम घर जा रहे हैं क्योंकि देर हो गई लड़का किताब पढ़ता है शिक्षक ने कहा "
    "प्रश्न बहुत सरल मेरा दोस्त समुद्र के पास रहता हर सुबह चाय पीता और काम करता लोग "
    "संगीत पसंद करते विज्ञान इतिहास संस्कृति",
    "ko": "오늘 우리는 집에 갑니다 늦었기 때문에 소년은 책을 읽습니다 선생님은 질문이 "
    "쉽다고 말했습니다 친구는 바다 근처에 살아요 매일 아침 차를 마시고 일합니다 "
    "사람들은 음악을 좋아합니다 과학 역사 문화 경제",
    "lo": "ປະເທດ ສວຍງາມ ພວກເຮົາ ໄປ ໂຮງຮຽນ ນັກຮຽນ ອ່ານ ປຶ້ມ ນ້ຳ ກິນ ເຂົ້າ ບ້ານ",
    "km": "ខ្ញុំ ទៅ ផ្សារ ជាមួយ ម្តាយ សិស្ស អាន សៀវភៅ ទឹក បាយ ផ្ទះ សាលា",
    "my": "ကျွန်တော် ကျောင်း သွား သည် စာအုပ် ဖတ် ရေ ထမင်း အိမ် မြို့",
}
"""Language -> words, most of which a dictionary has."""
STOPS = {"zh": "，。", "ja": "、。", "ar": "،.", "ru": ",.", "hi": ",।", "ko": ",."}
WITH_SPACES = ("ar", "ru", "hi", "ko")


def sentence(language: str, rng: random.Random) -> str:
    """Return a sentence of random words; in `mixed`, of Chinese and English ones."""
    if language == "mixed":
        parts = (sentence("zh", rng), f" {sentence('en', rng)}")
        return "".join(rng.choices(parts, k=2))
    if language == "en":
        words = rng.choices(
            ["we", "went", "home", "late", "and", "the", "Old", "city", "slept"], k=6
        )
        return " ".join(words) + ". "
    words = rng.choices(WORDS[language].split(), k=rng.randint(3, 8))
    if language == "ru":
        words[0] = words[0].capitalize()
    gap = " " if language in WITH_SPACES else ""
    stop = rng.choice(STOPS.get(language, " "))
    return gap.join(words) + stop + gap


def sentences(language: str, rng: random.Random, count: int) -> str:
    """Return a text of so many sentences."""
    return "".join(sentence(language, rng) for _ in range(count)).strip()


def rows(language: str, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return Alpaca rows."""
    rng = random.Random(f"{language} {seed}")
    return [
        {
            "instruction": sentences(language, rng, rng.randint(1, 2)),
            "output": sentences(language, rng, rng.randint(2, 4)),
        }
        for _ in range(count)
    ]
