"""The texts of the workloads: made-up words for the synthetic model, whose vocabulary they are, and English for others.

A made-up word is a run of syllables, a consonant and a vowel each. A word of two syllables is one token of the model and
one of three is two tokens, so that the texts come to a token and a quarter a word. English comes to as much with most
vocabularies: each word is a frequent one, and every fourth ends with a punctuation mark.
"""

from __future__ import annotations

from random import Random

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in "aeiouy"]
# Every fourth word is a long one, or ends with a mark, at random.
LONG_WORDS = 0.25
_ENGLISH = """
able above across action after again against air almost along already also always among animal answer area around art ask
back bank base become before behind below best better between big black blood blue board boat body book both box boy bring
brother brown build building business busy call came car care carry case cause center certain chair change child children
church city class clear close coast cold color come common company complete control cook cool corner cost could country
course cover cross cut dark day deep did different direction door down draw dream dress drive dry during each early earth
east easy eat edge effect end energy engine enough even evening ever every example eye face fact fall family far farm fast
father feel feet few field fight fill final find fine fire first fish floor flow fly follow food foot force forest form
found four free friend from front full game garden gave general girl give glass gold good government grass gray great
green ground group grow guide had half hand happen happy hard have head hear heart heat heavy help here high hill history
hold home horse hot hour house hundred ice idea image important inch industry inside interest iron island job join jump
keep kept kind king knew know lake land language large last late law lead learn leave left leg length less letter level
life light like line list listen little live long look lost love low machine main major make man many map mark market
matter mean measure meet member men metal middle might mile milk mind minute miss modern money month moon morning mother
mountain mouth move music name nation near need never new next night north note nothing number ocean office often oil old
once only open order other outside over page paint paper part party pass past path pay peace people person picture piece
place plain plan plane plant play point poor position power present price private problem process produce product public
pull purpose question quick quiet quite race rain raise reach read ready real reason record red region remember report
rest result rich ride right river road rock room round rule run safe said sail salt same sand save say school science sea
season seat second see seem sell send sense serve set seven several shape share ship short should show side sign silver
simple since sing sit size skin sleep slow small snow social soft soil some song soon sound south space speak special
speed spring square stand star start state stay steel step still stone stood stop store story street strong student study
such summer sun sure surface system table take talk teach tell ten term test than their then there thing think third those
though thought thousand three through time today together told took top total touch toward town trade train travel tree
true try turn two under unit until use usual valley value very view village visit voice wait walk wall want war warm watch
water wave way weather week weight well went west wheel where which while white whole why wide wife wild will wind window
winter wish without woman wonder wood word work world would write year yellow young
"""
ENGLISH = _ENGLISH.split()


def make_text(words: int, rng: Random, english: bool = False) -> str:
    """Return a text of so many words, about 1.25 tokens a word."""
    if english:
        return " ".join(
            rng.choice(ENGLISH) + (rng.choice(".,;:") if rng.random() < LONG_WORDS else "") for _ in range(words)
        )
    return " ".join("".join(rng.choices(SYLLABLES, k=3 if rng.random() < LONG_WORDS else 2)) for _ in range(words))
