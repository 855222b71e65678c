"""English words that are no keywords, as examples of the label `unknown`.

Many resemble a keyword on purpose, but none sounds the same. Some are only in the validation or the test
part.
"""

from __future__ import annotations

from typing import Literal

from training.speech.synthetic.grammar import COMMANDS, vocabulary

_SAME_SOUND = {"a", "m", "p", "i", "to", "for", "oh"}  # like a keyword, or hardly audible
_FURTHER = """
about above across after against along always animal answer arrive autumn away baby back bad bag ball
balance bank basket beach bear beauty become beg behind bell below best better between bicycle big bill
board boat body bone book bottle bottom box boy branch brave breakfast bridge bring brother brown brush
build burn business busy cake camera candle capital captain card careful carry castle catch caught centre
chair chance change cheap cheese chicken child choose circle city class clear clever climb clock cloth cloud
coast coat collect college colour come common company complete computer cook corner cost cotton cough count
country course cousin cover cow crowd cry cup cut dad damage danger daughter dead deal dear decide deep deer
den dent desk dinner direction dirty discover dish distance divide doctor doll dollar done dot doubt dozen
draw dream dress drink drive drop dry duck dust duty eager ear early earth east easy edge education egg
either electric eleventh empty enemy engine enjoy enough enter equal escape even ever every exact example
exercise expect explain eye face fact factory fail fair fall family famous far farm fast fat father fault
favour fear feather fellow fence fever few field fight figure fill find fine finger finish fire fish fit fix
flag flame flat flight floor flower fly fog fold food fool foot force foreign forest forget fork form forty
found fox frame free fresh friend fruit full fun furniture future gain game gather gentle gift girl give
glad glass goal goat gold goose grain grandmother grass great ground group grow guess guest guide guitar gun
habit hair half hammer hand handle hang happen hard harbour hat hate head heal health heart heat heaven
heavy height hen hero hide high hill history hit hive hold hole holiday hollow honest hope horse hospital
hotel huge human hungry hurry hurt husband ice idea ill important inch industry insect inside invite iron
island jacket job join joke journey judge juice jump keep key kick kind king kiss knee knife knock ladder
lady lake land language large laugh law lazy lead leaf lean leather leave lesson letter level library lie
lift line lion lip liquid little loaf local log lonely long look lose loud love low luck lunch machine mad
magic main manner many mark market marry martin match meal measure meat medicine meet melt member memory
metal middle mile mind mine mirror miss mistake mix model modern moment money monkey mother mountain mouse
mouth move much mud muscle museum mystery nail name narrow nation nature near neck need needle neighbour
nerve nest never new nice noise north nose note notice nurse nut obey object ocean offer officer often oil
old onion orange order other ought out oven own paint pair palace paper parcel parent park party pass past
path patient peace pen pencil people pepper perfect person petrol photograph pick piece pig pin pipe place
plan plane plant plastic plate pocket poem point poison police polite pool poor popular position possible
post pot potato power practice praise prepare present pretty price prince prison prize problem promise proud
prove public pull pupil push queen question quick quite rabbit race rail rain raise rat reach ready real
reason receive record remember repair repeat report rest rice rich ride ring rise river road roof root rope
rough round royal rubber rude rule run safe sail salad salt same sand save scale school science scissors sea
search season seat secret see seed seem sell sense serious serve several shade shadow shake shallow shame
shape share sharp sheep sheet shelf shell shine ship shirt shoe shop short shout sick side sign silver
simple sing sister sit size skill skin skirt sky sleep slip slow small smell smile smoke snake snow soap
sock soft soil soldier solid son sort soul sound soup south space speak special speed spell spoon sport
spread spring square stage stair stamp star station stay steal steam step stick stomach stone store storm
straight strange stream street strength string strong student study stupid subject success sudden suffer
suit summer sun supper sure surprise sweet swim sword table tail tall taste taxi teach team tear telephone
tent terrible test thick thin thief think thirsty threat throat through throw thumb ticket tie tiger tight
tin tired title toe tomato tongue tool tooth top touch tourist toward towel tower town toy track trade train
travel tray treat trip trouble trousers true trust truth try tube tune twice type ugly uncle under unit
university until use useful usual valley value various vegetable very victory view village visit voice vote
vow wage wall wander war waste watch wave way weak wealth wear weather wedding week weigh welcome west wet
wheel whistle whole wide wife wild win wind wine wing winter wire wise wish woman wonder wood wool world
worry worth wound wrong yard year yell yellow yet young zebra
"""
_HELD_OUT = {"validation": 2, "test": 5}  # index within every eight words


def unknown_words(part: Literal["train", "validation", "test"]) -> tuple[str, ...]:
    """Return the words of a part, which are in no other part."""
    every = sorted({*vocabulary(), *_FURTHER.split()} - set(COMMANDS) - _SAME_SOUND)
    places = {number: name for name, number in _HELD_OUT.items()}
    return tuple(word for number, word in enumerate(every) if places.get(number % 8, "train") == part)
