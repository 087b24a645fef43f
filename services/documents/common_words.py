"""Words that a question has whatever it is about, in the languages of most people here: they tell no text from another."""

from __future__ import annotations

_ENGLISH = """
a about after all also am an and any are as at be because been before being but by can could did do does doing done for
from had has have he her here him his how i if in into is it its itself just like may me might more most much must my no
nor not of off on one only or other our out over own s same shall she should so some such t tell than that the their
them then there these they this those through to too under until up upon us very was we were what when where which while
who whom whose why will with would you your don isn aren doesn didn wasn weren won ll re ve
"""
_GERMAN = """
aber als am an auch auf aus bei bin bis da das dass dem den der des die doch du durch ein eine einem einen einer eines
er es für gibt hat haben ich ihr ihre ihrer im in ist ja kann können man mit nach nicht noch nur ob oder sein seine sich
sie sind so soll sollte über um und uns unter vom von vor wann war waren warum was wenn wer werden weshalb welche
welchen welcher welches wie wird wo wohin womit wovon wovor wurde zu zum zur
"""
_FRENCH = """
au aux avec ce ces cet cette comment dans de des du elle elles en est et eux faut il ils je la le les leur lui ma mais
me mes mon ne nos notre nous ou où par pas pour quand que quel quelle quelles quels qu qui quoi sa sans se ses si son
sont sur ta te tu un une vos votre vous y l d n c j
"""
_SPANISH = """
al como cómo cuál cuándo cuánto de del dónde el ella en es está están esta este fue ha hasta la las lo los más no o para
pero por puede qué quién se si sin son su sus te tiene tu un una y ya
"""
_ITALIAN = """
al alla che chi ci come con cosa da dal dalla dei del della delle di dove e è fu gli ha ho i il in io la le lo ma nel
nella non per perché più qual quale quali quando quanto se si sono su tra un una uno
"""
_UKRAINIAN = """
а але бо був була були було в від вже він вона вони воно де для до є з за і із й її їх його коли куди між
на над не ні о про під по при скільки та так ти то у чи через чому що щоб як яка яке який яких які ця це цей
"""  # noqa: RUF001
COMMON_WORDS = frozenset(" ".join((_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _ITALIAN, _UKRAINIAN)).split())
