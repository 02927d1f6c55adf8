"""Words that carry an instruction, by what they say: of making, of seeking, of changing, of how good a thing shall be.

The heads read meaning from MiniLM; these lists tell them, and the search, what a wording never seen in training shares
with those that were. English only.
"""

from __future__ import annotations

import re

from genrec.content.instructor.words import stem


def _any_of(listed: str) -> re.Pattern[str]:
    """Whole words or phrases; ``_`` is a space, ``*`` any ending."""
    parts = (re.escape(part).replace("_", " ").replace(r"\*", r"\w*") for part in listed.split())
    return re.compile(rf"\b(?:{'|'.join(parts)})\b")


MAKING = _any_of(
    "draw draws drawn paint painted sketch* scribble doodle* illustrate* illustration* design* create* generate* "
    "render* make_me make_us make_a make_an make_up compose* craft* invent* imagine* visuali* picture_of "
    "drawing_of image_of painting_of poster_of poster_for logo* banner* sticker* wallpaper* icon mascot* artwork "
    "art_of conjure whip_up print_me produce from_scratch brand_new brand-new depict* showing featuring emblem "
    "flyer leaflet postcard invitation tattoo mural background_for write_me write_a"
)
SEEKING = _any_of(
    "watch* see seen rewatch* film films movie movies flick* find recommend* suggest* stream* play cinema "
    "have_you have_got do_you_have you_have got_any any_good stock carry looking_for search* in_the_mood mood_for "
    "tonight starring directed genre the_one_where the_one_with available collection catalog* library trilogy "
    "sequel* title called viewing screening marathon classics rent borrow put_on queue"
)
CHANGING = _any_of(
    "crop* cut trim* zoom* remove* erase* delete* lose drop get_rid without replace* swap* change* turn* convert* "
    "recolo* repaint* redo restyle* retouch* brighter brighten* darker darken* lighter sharper sharpen* blur* "
    "softer warmer cooler contrast saturat* bigger smaller larger add put_a put_some give_it rewrite reword* "
    "rephrase* shorten* shorter animate* look_like make_it make_this make_that make_the instead_of instead "
    "background less fewer rotate* flip* mirror* straighten* tint* fade* tone clean_up tidy"
)
STYLED = _any_of(
    "style styled watercolo* oil pixel 3d flat cartoon* anime manga comic* pencil charcoal ink crayon pastel* "
    "vector isometric origami mosaic graffiti cubis* impressionis* surreal* minimal* vintage retro photoreal* "
    "realistic cyberpunk steampunk gothic baroque ukiyo-e woodcut chalk embroider* emoji sepia noir collage "
    "papercut paper_cut cut_paper hand-drawn neon lego clay claymation engraving etching linocut gouache "
    "storybook blueprint silhouette stained_glass pop_art art_deco art_nouveau line_art low_poly black_and_white "
    "monochrome van_gogh picasso monet klimt ghibli disney simpson* doodle glossy acrylic fresco tapestry"
)
RECALLING = _any_of(
    "the_one_where the_one_with the_one_about that_one_where that_one_with that_one_about one_where one_in_which "
    "that_film that_movie the_film_where the_movie_where the_film_in_which what's_that whats_that what_was_that "
    "what's_the_name what_was_it what_is_it_called what_was_the_name name_of isn't_there wasn't_there i_remember "
    "can't_remember cant_remember forgot forgotten_the_name you_know_the escapes_me tip_of_my_tongue saw_once "
    "as_a_kid i_saw years_ago the_name_is wasn't_it isn't_it i_think_it is_it_called heard_of remind_me"
)
"""Who says so has seen the thing: it exists."""

_SOFT_WORDS = """
old older oldest new newer newest recent recently latest modern classic classics contemporary vintage early late
golden age ages days decent solid proper real really truly nice lovely wonderful amazing awesome excellent fantastic
brilliant superb perfect fine top favourite favorite beloved famous popular known well-known unknown obscure forgotten
underrated overrated cult acclaimed award awards award-winning oscar oscars winning winner rated reviews reviewed
light lighter easy easygoing simple short shorter long longer slow slower fast fast-paced quick relaxing calm calming
gentle quiet cosy cozy cosier comfort comforting warm uplifting inspiring inspirational intelligent smart clever
thoughtful deep serious intense gripping exciting thrilling weird strange odd quirky offbeat unusual different fresh
original bold stylish beautiful gorgeous pretty cool hip epic big huge small tiny quality high low budget cheap
foreign hollywood indie independent mainstream blockbuster black-and-white black white colour color silent
weekend sunday saturday friday monday morning afternoon night nights date rainy rain cold winter summer holiday
holidays christmas birthday party family friend friends husband wife girlfriend boyfriend mother mum mom father dad
grandma grandpa grandmother grandfather sister brother aunt uncle boss colleague colleagues neighbour flatmate
roommate class teacher club adult adults grown-up grown-ups teenager teenagers teens everyone everybody group people
person alone together sofa couch home bed popcorn watching seeing watched watchable enjoyable entertaining
entertainment entertain suitable appropriate recommendation recommendations suggestion suggestions idea ideas
choice choices preferably ideally maybe perhaps possibly probably bit little slightly quite rather fairly pretty super
extremely absolutely totally kinda sorta proper plenty lot lots tons loads enough full flavour vibe vibes style
feeling feelings tone touch hint dash element elements theme themes themed set setting based story stories tale tales
plot narrative genre genres category kinda type types sorts kinds part half hour hours minute minutes length
involve involves involving include includes including contain contains featuring features feature concerning
related regarding similar alike comparable reminiscent vein lines spirit direction taste fan fans fancy fancying
crave craving prefer keen hoping hope wish wondering wonder guess suppose think thought say said tell told ask
remember recall forget forgot name names whatever anyone anybody nobody nothing everything always never once twice
again today tomorrow yesterday week month everyday soon later now made make makes making man men woman
guy guys someone thank cheers kindly
"""
SOFT = frozenset(stem(word) for word in _SOFT_WORDS.split())
"""Words of quality, age, audience and occasion: no title or kind can be held against them."""
SOFT_SHARE = 0.1
"""What such a word weighs in a search, of what another would."""
