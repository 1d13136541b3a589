# ruff: noqa: E501, SIM905 - a pattern is one line, word lists read better in lines
"""Questions outside ModelCloud, which the model declines: templates over word lists, and the single questions of offtopic.txt."""

from pathlib import Path

DECLINE = (
    "I only know ModelCloud, so I cannot answer that. For other questions get a larger model with mcd pull, "
    "then start mcd run --gpu --model MODEL."
)

COUNTRIES = """france germany italy spain portugal japan china india brazil argentina chile mexico canada australia egypt kenya ethiopia morocco
turkey greece poland sweden norway finland denmark iceland ireland russia ukraine austria switzerland belgium hungary romania bulgaria croatia
serbia thailand vietnam indonesia malaysia korea mongolia nepal pakistan iran iraq israel cuba jamaica bolivia ecuador colombia venezuela
ghana senegal angola zambia madagascar fiji singapore latvia estonia malta albania scotland wales england texas california"""
CITIES = """paris london berlin madrid rome vienna prague tokyo osaka beijing delhi mumbai cairo nairobi chicago boston miami dallas seattle
toronto montreal moscow istanbul athens dublin oslo stockholm helsinki warsaw budapest munich hamburg milan venice barcelona amsterdam
brussels zurich geneva bangkok singapore jakarta melbourne auckland lima bogota santiago havana dubai"""
PEOPLE = """albert einstein|isaac newton|napoleon|julius caesar|cleopatra|barack obama|donald trump|joe biden|angela merkel|elon musk|bill gates|steve jobs
lionel messi|cristiano ronaldo|roger federer|serena williams|michael jordan|muhammad ali|usain bolt|beyonce|madonna|michael jackson|elvis presley|john lennon
mozart|beethoven|bach|chopin|picasso|van gogh|rembrandt|michelangelo|shakespeare|goethe|tolstoy|jane austen|mark twain|hemingway|stephen king|jk rowling
tom hanks|brad pitt|leonardo dicaprio|meryl streep|tom cruise|marilyn monroe|charlie chaplin|marie curie|charles darwin|galileo|stephen hawking|alan turing
nelson mandela|gandhi|martin luther king|abraham lincoln|george washington|queen elizabeth|winston churchill|stalin|plato|aristotle|socrates|buddha|jesus
harry potter|batman|spiderman|sherlock holmes|darth vader|mickey mouse|lady gaga|rihanna|drake|eminem|adele|ed sheeran|kanye west|oprah|my neighbour|the pope"""
ANIMALS = """cat dog horse cow pig sheep goat lion tiger bear wolf fox rabbit mouse rat elephant giraffe zebra monkey gorilla whale dolphin shark
octopus crab snail spider ant bee butterfly fly mosquito snake lizard turtle crocodile frog eagle owl parrot penguin chicken duck goose swan
hamster kangaroo koala panda camel bat deer squirrel hedgehog dinosaur salmon jellyfish"""
FOODS = """pizza pasta bread rice soup salad cake cookies pancakes lasagna risotto curry sushi tacos burger fries steak chicken fish omelette
cheesecake brownies muffins pie porridge goulash paella ramen hummus guacamole ice cream coffee tea wine beer lemonade jam cheese chili stew
meatballs tofu potatoes beans eggs waffles scones pesto"""
THINGS = """car bicycle guitar piano house garden door window lamp chair table bed sofa phone television camera watch ring shirt dress shoes hat
jacket umbrella boat plane train bus ticket book film song game ball tent knife fridge oven washing machine toilet sink tap roof wall fence
battery candle mirror carpet pillow bottle vase iphone playstation xbox drone flight hotel ticket diamond visa passport mortgage loan"""
SCIENCE = """gravity|photosynthesis|evolution|the big bang|black holes|relativity|quantum mechanics|electricity|magnetism|atoms|dna|genes|cells|bacteria|viruses
the moon|the sun|mars|jupiter|saturn|venus|stars|galaxies|volcanoes|earthquakes|rainbows|lightning|tides|the weather|climate change|oxygen|hydrogen|carbon
gold|iron|water|salt|the heart|the brain|the liver|blood|bones|muscles|sleep|dreams|vitamins|cancer|diabetes|flu|the immune system|inflation|democracy
capitalism|communism|the stock market|taxes|the constitution|philosophy|stoicism|existentialism|religion|islam|christianity|buddhism|yoga|meditation|love|happiness
the french revolution|the cold war|world war one|the renaissance|the middle ages|ancient egypt|the roman empire|the vikings|the aztecs|the industrial revolution
algebra|calculus|the pythagorean theorem|prime numbers|fractions|percentages|logarithms|matrices|derivatives|integrals|probability|bitcoin|ethereum mining|nft|tiktok
instagram|facebook|youtube|netflix|football|basketball|tennis|cricket|chess|poker|golf|baseball|swimming|skiing|marathon running|impressionism|jazz|opera|ballet"""
SOFTWARE = """photoshop|windows 11|microsoft office|excel|word|chrome|firefox|minecraft|fortnite|steam|spotify|zoom|skype|whatsapp|photoshop plugins|wordpress|mysql
postgres|nginx|apache httpd|kubernetes|docker desktop|node.js|java|php|ruby|android studio|xcode|blender|gimp|autocad|matlab|a printer driver|an antivirus|adobe reader
visual studio|arduino|a game|roblox|linux mint|an app on my phone|a car stereo|a dishwasher|solar panels|a shelf|a ceiling fan|curtains"""
LANGS = "french german spanish italian japanese chinese russian arabic latin greek polish dutch portuguese turkish swedish korean hindi czech".split()
PHRASES = "hello|good morning|i love you|where is the station|thank you|my name is anna|the house is big|how much is the fish|happy birthday|cheers|one two three|excuse me"
CODE = """reverses a string|sorts a list|adds two numbers|computes fibonacci numbers|finds prime numbers|reads a csv file|parses json|scrapes a website|sends an email
plays tic tac toe|counts words|checks a palindrome|draws a circle|connects to a database|makes a http server in java|solves sudoku|computes factorials|merges two lists"""
PLANGS = (
    "python java c c++ rust go javascript typescript php ruby swift kotlin haskell sql bash perl scala html css".split()
)
MOVIES = """titanic|the godfather|star wars|the matrix|inception|avatar|jaws|frozen|casablanca|romeo and juliet|macbeth|the odyssey|don quixote|moby dick|dracula|1984
the hobbit|the lord of the rings|game of thrones|breaking bad|friends|the simpsons|the bible|the great gatsby|pulp fiction|alien|rocky|bambi|faust|the lion king"""
POEM_SUBJECTS = """love|the sea|winter|spring|my mother|a rainy day|the stars|a lost dog|friendship|death|time|a rose|the city at night|a train|mountains|my cat|summer|home|freedom|war
dragons|a wizard|a robot|pirates|a princess|a haunted house|space travel|a detective|the desert|a birthday"""
JOBS = "president|king|queen|chancellor|mayor|first president|leader|emperor|pope|finance minister|richest man|governor|ambassador|captain|head coach"
BODY = "head stomach tooth knee throat ear foot neck shoulder eye leg finger chest skin".split()
UNITS = "miles kilometres|pounds kilograms|feet metres|inches centimetres|celsius fahrenheit|gallons litres|dollars euros|pounds dollars|euros yen|ounces grams|hours minutes|days seconds|cups millilitres|acres hectares|knots mph"

# Each template: (pattern, word list names). "{x}" takes one word of the list.
TEMPLATES: list[tuple[str, str]] = [
    ("(what is|what's|tell me|name|do you know|) the capital( city|) of {country}", "country"),
    ("capital of {country}", "country"),
    (
        "(how many people live in|what is the population of|how big is|where is|tell me about|describe|what is the history of|the flag of|is it safe in) {country}",
        "country",
    ),
    ("(who is|who was|name) the ({job}) of {country}", "country"),
    (
        "(what|which) (language|currency|religion|food) (do they have|is spoken|is used|is typical) in {country}",
        "country",
    ),
    ("(what is|how is|what's) the weather( like|) in {city}( today| tomorrow| now|)", "city"),
    (
        "(will it|is it going to|does it) (rain|snow|be sunny|be hot|be cold)( today| tomorrow| on sunday|) in {city}",
        "city",
    ),
    ("(flights|trains|hotels|restaurants|museums|things to do|a flat|jobs|the best bars) (to|in) {city}", "city"),
    ("(what time is it|what can i visit|where can i eat|how do i get around|what should i see) in {city}", "city"),
    (
        "(how far is|how long is the flight to|book me a hotel in|how do i get to|when is the next train to|is it cold in) {city}",
        "city",
    ),
    ("who (is|was|are) {person}", "person"),
    ("(how old|how tall|how rich) (is|was) {person}", "person"),
    ("(when|where) was {person} (born|buried|married)", "person"),
    ("(when|how) did {person} die", "person"),
    ("(tell me|write) (about|a biography of|something about|a story about|an essay about) {person}", "person"),
    ("(is|was) {person} (still alive|married|dead|rich|american|a genius|happy)", "person"),
    ("what (is|was) {person} (famous for|known for|doing)", "person"),
    (
        "(how long|how old|how big|how fast) (do|does|can|is) (a |an |the ){animal}(s|) (live|get|run|sleep|swim|weigh)",
        "animal",
    ),
    ("(what|how much) (does|do|should) (a |an |my ){animal} (eat|cost|drink|weigh|dream of)", "animal"),
    (
        "(why do|how do|can|do) {animal}s (sleep|fly|swim|bite|cry|see colours|eat meat|lay eggs|jump|smell|have teeth|feel pain)",
        "animal",
    ),
    ("(is|are) (a |the |){animal}(s|) (a mammal|dangerous|a bird|intelligent|extinct|a good pet|an insect)", "animal"),
    ("(name|a name|names) for my {animal}", "animal"),
    ("what sound does a {animal} make", "animal"),
    ("how many (legs|teeth|eyes|hearts|bones|babies) does a {animal} have", "animal"),
    ("(how do i|how to|how can i|show me how to) (cook|make|bake|prepare|season|freeze|reheat|serve) {food}", "food"),
    ("(recipe|a recipe|recipes|give me a recipe|the best recipe|an easy recipe) for {food}", "food"),
    ("(is|are) {food} (healthy|fattening|vegan|good for me|bad for dogs|italian|gluten free)", "food"),
    ("how many calories (are in|has|does one get from) {food}", "food"),
    (
        "(where can i buy|who invented|what goes well with|what is in|how long does it take to cook|the best) {food}",
        "food",
    ),
    (
        "(how do i|how to|how can i) (repair|fix|clean|paint|buy|sell|build|draw|choose|carry|insure|recycle|wrap|measure) (a |my |the |an ){thing}",
        "thing",
    ),
    ("(how much does|what does) (a |the |an |my new ){thing} cost", "thing"),
    ("(where|when|which) (should i|can i|do i) (buy|find|rent|park|put) (a |my |an ){thing}", "thing"),
    ("(my|the) {thing} is (broken|dirty|stolen|too small|leaking|on fire|noisy)", "thing"),
    ("who invented the {thing}", "thing"),
    ("(price|weight|size|colour|history) of (a|the) {thing}", "thing"),
    (
        "(what is|what are|explain|tell me about|define|describe|what do you think about|who discovered|what causes|how does one study|how do i understand) {science}",
        "science",
    ),
    ("(how does|how do|why does|why do|how did) {science} (work|exist|happen|begin|matter|form|end)", "science"),
    (
        "(write an essay|give me a lecture|a summary|three facts|a quiz|a book|an introduction|a short text|help me with my homework) (about|on) {science}",
        "science",
    ),
    (
        "(when|where|why) (was|were|is|are) {science} (discovered|invented|important|born|found|popular|interesting)",
        "science",
    ),
    ("teach me {science}", "science"),
    (
        "(how do i|how to|how can i|help me) (install|uninstall|update|set up|use|download|buy|configure|start|stop) {software}",
        "software",
    ),
    (
        "(what is|how much is|where can i get|is there a free version of|how do i get|what does it cost to have) {software}",
        "software",
    ),
    ("{software} (does not work|crashes|is slow|is not found|license|tutorial|download)", "software"),
    ("(translate|how do you say|how do i say|what is|say) {phrase} (in|to|into) {lang}", "phrase"),
    (
        "(teach me|can you speak|do you speak|how do i learn|is it hard to learn|the alphabet in|count to ten in|how many people speak) {lang}",
        "lang",
    ),
    (
        "(write|give me|show me|code|create|make) (a |an |some |me a ){plang} (program|function|script|code|class) (that|which) {code}",
        "code",
    ),
    ("(write|give me) (a |)code (that|which) {code}( in {plang}|)", "code"),
    (
        "(how do i|how to|how can i) (write a loop|use classes|handle errors|define a variable|sort an array|concatenate strings|open a file|use regex|use recursion|print hello world|debug a segfault|do unit tests) in {plang}",
        "plang",
    ),
    (
        "(is {plang} better than java|what is {plang}|learn {plang}|teach me {plang}|a {plang} tutorial|who invented {plang}|is {plang} hard)",
        "plang",
    ),
    (
        "(who wrote|who directed|who starred in|when was|what happens in|what is|summarize|is it worth watching|what is the ending of|tell me the plot of|review) {movie}( about| made|)",
        "movie",
    ),
    ("(a film|books|films|a series|a novel|something) like {movie}", "movie"),
    (
        "(write|write me|compose|make|give me|create|tell me|invent) (a |a short |an |some |a funny |a sad )(poem|haiku|story|song|limerick|rap|fairy tale|joke|riddle|ballad|love letter|speech|verse|novel|play|rhyme) (about|on|for) {subject}",
        "subject",
    ),
    ("(poem|story|haiku|song|joke|riddle) about {subject}", "subject"),
    ("(my|the) {body} (hurts|aches|is swollen|is red|itches|bleeds)", "body"),
    (
        "(what helps against|why do i have|how do i treat|medicine for|what to do about) (a |an |my )(sore |hurting |){body}( ache| pain|)",
        "body",
    ),
    ("(convert|what is|how much is|how many) {n} {unit1} (to|in|into|as) {unit2}", "unit"),
    ("how many {unit1} are in {n} {unit2}", "unit"),
    (
        "(what is|what's|calculate|compute|how much is|solve|tell me|) {n} (+|-|*|/|x|plus|minus|times|divided by|multiplied by|modulo|to the power of|mod|over) {n}( =|)",
        "",
    ),
    ("(what is |what's |calculate |how much is |solve |){n}(+|-|*|/|x|^){n}(=|)", ""),
    (
        "({n}+{n}+{n}|{n} + {n} - {n}|({n}+{n})*{n}|{n}*{n}-{n}|1/{n}|-{n} + {n}|{n}.{n} * {n}|{n}% of {n}|{n}!)( =|)",
        "",
    ),
    ("(add|sum|subtract|multiply|divide) {n} (and|from|by|with) {n}", ""),
    (
        "(what is|calculate|find|) (the square root of|the cube of|half of|the double of|the factorial of|the logarithm of|ten percent of|the sine of) {n}",
        "",
    ),
    (
        "(is {n} a prime number|solve x + {n} = {n}|what is {n} percent of {n}|round {n}.{n}|factor {n}|the sum of {n} and {n}|the area of a circle with radius {n}|{n} in binary|{n} in roman numerals|add {n} and {n}|subtract {n} from {n}|count to {n})",
        "",
    ),
    (
        "(who won|who will win|when is|when was|where is) (the |)(world cup|super bowl|olympics|election|oscars|nobel prize|world series|wimbledon|tour de france|eurovision|grand prix|champions cup|derby)( in {n}| next year| last year|)",
        "",
    ),
    (
        "(when|what year|why) (did|was) (world war two|world war one|the moon landing|the wall in berlin|the titanic|rome|the black death|columbus|the cold war|the civil war|the euro|the printing press|the telephone|the first computer|the pyramids) (begin|end|built|sink|invented|happen|start|introduced|discovered)",
        "",
    ),
    (
        "(what is|what's|tell me|) (the time|the date today|the day today|the year|today's date|the time now|the news|the weather|the forecast|the temperature outside|the traffic like|the bitcoin price|the price of gold|the dollar rate|the oil price|on tv tonight)",
        "",
    ),
    (
        "(should i|how can i|how do i|help me|i want to|can i) (lose weight|gain muscle|sleep better|stop smoking|find a girlfriend|get married|quit my job|write a cv|learn to drive|buy a house|invest my savings|save taxes|raise a child|train a puppy|grow tomatoes|pass an exam|become rich|make friends|lower my blood pressure|run a marathon|meditate|divorce|move abroad|plan a wedding|tie a tie|change a tyre|iron a shirt|whistle|knit a scarf|play the guitar|study medicine|get a visa)",
        "",
    ),
    (
        "(recommend|suggest|find|give me|what is) (a |an |some |a good |the best )(film|book|restaurant|song|gift for my wife|holiday destination|wine|game|podcast|name for a baby|hotel|doctor|diet|workout|phone|laptop bag|car|university|tv show|museum|dentist|hairdresser|cheese)",
        "",
    ),
    (
        "(write|draft|compose|correct|rewrite|proofread|summarise|translate) (a |an |my |this |the )(letter|email|essay|cover letter|text|speech|invitation|cv|article|poem|contract|complaint|thank you note|birthday card|report|tweet|blog post|paragraph|sentence)( to my boss| for school| to my teacher| about holidays| for me| please|)",
        "",
    ),
    (
        "(which|what) (is|are) the (biggest|largest|smallest|longest|highest|oldest|fastest|deepest|richest|hottest|coldest) (river|lake|ocean|country|city|animal|building|planet|desert|island|bridge|tree|bird|fish|company|volcano|waterfall|train|insect)( in the world| in europe| in asia| on earth| in africa|)",
        "",
    ),
    (
        "(what|which|who) (colour|number|shape|day|month|season|metal|gas|element|instrument|saint|god|king|team) (is|was|has|comes|plays) (next|best|first|the sky|a banana|after monday|the lightest|in winter|thor|famous|lucky|a tomato|the heaviest|last)",
        "",
    ),
    (
        "(what is|who is|what's) your (favourite|favorite) (colour|food|film|song|animal|book|city|team|band|season|number|drink|country|actor)",
        "",
    ),
    (
        "what is the (chemical formula|boiling point|melting point|symbol|atomic number|density|price|colour|taste) of (water|gold|silver|iron|salt|helium|copper|sugar|alcohol|lead|mercury|aluminium|neon|sulphur)",
        "",
    ),
    (
        "(tell|sing|read|show|play|draw) me (a joke|a story|a song|something funny|a riddle|a fun fact|music|a picture|a fairy tale|the news|a cat|a quote|a horoscope|a secret|chess|a poem|a picture of a horse|something interesting)",
        "",
    ),
    (
        "(do you like|do you know|can you play|what do you think of|are you a fan of|do you believe in) (music|football|chess|pizza|god|ghosts|aliens|politics|cats|poetry|the beatles|movies|sports|fate|the president|magic|dancing|chocolate|santa claus|astrology)",
        "",
    ),
    (
        "(what does|what is the meaning of|define|spell|a synonym for|the opposite of|the plural of|how do you pronounce|what rhymes with) (the word |)(ambiguous|ephemeral|paradox|nostalgia|mouse|ubiquitous|resilient|onomatopoeia|benevolent|irony|metaphor|quixotic|orange|necessary|happy|bright|child|verb)( mean|)",
        "",
    ),
    (
        "(who|what) (invented|discovered|wrote|painted|composed|founded|built|sang|designed) (the telephone|the light bulb|america|gravity|the internet|the airplane|the ninth symphony|guernica|the eiffel tower|hamlet|google|apple|the wheel|paper|yesterday|the iliad|the radio|dynamite|the car|microsoft|the steam engine|x-rays|the guitar)",
        "",
    ),
    (
        "why (is|are|do|does|did) (the sky blue|grass green|the sea salty|we sleep|people lie|leaves fall|we have seasons|ice float|onions make me cry|we yawn|the moon shine|babies cry|birds sing|men go bald|bread rise|planes fly|we dream|rome fall|my husband snore)",
        "",
    ),
]

SINGLES: list[str] = (Path(__file__).parent / "offtopic.txt").read_text(encoding="utf-8").splitlines()
HARD: list[str] = (Path(__file__).parent / "offtopic_hard.txt").read_text(encoding="utf-8").splitlines()
"""Patterns of questions that share words with our subject, or look like commands and sums."""

LISTS: dict[str, list[str]] = {
    "country": COUNTRIES.split(),
    "city": CITIES.split(),
    "person": PEOPLE.replace("\n", "|").split("|"),
    "animal": ANIMALS.split(),
    "food": FOODS.replace("\n", " ").split(),
    "thing": THINGS.replace("\n", " ").split(),
    "science": SCIENCE.replace("\n", "|").split("|"),
    "software": SOFTWARE.replace("\n", "|").split("|"),
    "lang": LANGS,
    "phrase": PHRASES.split("|"),
    "code": CODE.replace("\n", "|").split("|"),
    "plang": PLANGS,
    "movie": MOVIES.replace("\n", "|").split("|"),
    "subject": POEM_SUBJECTS.replace("\n", "|").split("|"),
    "job": JOBS.split("|"),
    "body": BODY,
    "unit": UNITS.split("|"),
}
