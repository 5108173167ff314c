"""Homophones: English words that a speech recognizer takes for each other."""

from __future__ import annotations

from collections.abc import Sequence

from lope_dist.noise.base import NOISE, WordOperation
from lope_dist.noise.words import edge_marks

_SAME_SOUND = """
to too two; for four; by buy bye; there their they're; your you're; its it's; no know; new knew;
one won; be bee; see sea; so sew; or oar; our hour; in inn; I eye; we wee; not knot; but butt;
right write; would wood; here hear; where wear; which witch; whether weather; all awl; some sum;
son sun; great grate; made maid; mail male; main mane; meet meat; might mite; more moor; need knead;
morning mourning; night knight; pair pear; peace piece; plain plane; pole poll; read red;
poor pour; principal principle; rain reign; road rode; role roll; root route; sail sale; scene seen;
sell cell; sent cent scent; site sight cite; suite sweet; stair stare; steal steel; tail tale;
tea tee; team teem; through threw; time thyme; toe tow; waist waste; wait weight; way weigh;
week weak; whole hole; wrap rap; you ewe; allowed aloud; ate eight; bare bear; base bass; blue blew;
board bored; brake break; bread bred; cereal serial; course coarse; dear deer; die dye; fair fare;
feat feet; fir fur; flour flower; heal heel; heard herd; high hi; hire higher; key quay; lead led;
loan lone; passed past; patience patients; pray prey; idle idol; him hymn; let's lets; who's whose;
been bin; do due; days daze; find fined; guessed guest; missed mist;
packed pact; presence presents; raise rays; sense cents; seem seam; side sighed; sort sought;
than then; and an; is his; as has; are our; accept except; affect effect; use ewes; very vary;
form farm; on own; of off; this these; that at; with width; from form; have half; can can't;
were we're; word world; most must; think thing; things thinks; help held; years ears; good could
"""
"""Groups of words that sound alike or, towards the end, nearly so in quick speech."""


def _table() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for group in _SAME_SOUND.replace("\n", " ").split(";"):
        words = group.split()
        for word in words:
            others = tuple(other for other in words if other != word)
            table[word.lower()] = table.get(word.lower(), ()) + others
    return table


HEARD = _table()
"""Word in small letters -> what is heard for it."""


@NOISE.register("homophone")
@WordOperation
def homophone(words: Sequence[str], index: int, draw: float) -> str | None:
    """Replace the word by one that sounds alike; capitals and marks around it stay.

    The table is of English; a text of another language is left as it is.
    """
    before, core, behind = edge_marks(words[index])
    heard = HEARD.get(core.lower())
    if heard is None:
        return None
    word = heard[int(draw * len(heard))]
    if core[0].isupper() and core != "I":
        word = word.upper() if len(core) > 1 and core.isupper() else word[0].upper() + word[1:]
    return before + word + behind
