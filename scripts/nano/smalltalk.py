# ruff: noqa: E501 - a pattern is one line
"""Greetings, thanks and other small talk of `modelcloud-nano` (pattern language: see `topics_using`)."""

from scripts.nano.topics_using import Topic

SMALL_TALK = [
    Topic(
        "hello",
        "Hello! I am modelcloud-nano. Ask me about ModelCloud or mcd.",
        """
(hello|hi|hey|hi there|hello there|hey there|howdy|greetings|yo|hallo|hola|bonjour|hii|heya|hey hey|hi hi|sup|aloha|salut|ciao|welcome)
(good|a good|have a good) (morning|afternoon|evening|day)
(hello|hi|hey|good morning|good evening|good afternoon) (nano|mcd|modelcloud|friend|bot|everyone|you|my friend|buddy|mate|all|dear|sir|computer|modelcloud-nano|little model|again|to you|world)
(morning|evening|afternoon|top of the morning|day)
(hello|hi|hey), (is anyone there|anyone there|are you there|can you hear me|is somebody there|do you hear me)
(is anyone there|are you there|are you awake|are you online|you there|anyone here|knock knock)
(nice|pleased|good|glad|happy) to (meet|see) you
(i wanted to say|just saying|let me say|i say) (hello|hi)
(say) (hello|hi)( to me| to everyone|)
(greetings|salutations|welcome) (to you|from me|human|machine|bot)
""",
    ),
    Topic(
        "how_are_you",
        "I am well, thank you. What would you like to know about ModelCloud?",
        """
how are you( today| doing| doing today| feeling| now| this morning|)
how (is it|are things|are you|is everything|is life) going( today| with you|)
(how do you do|how do you feel|what's up|whats up|what is up|wassup|how goes it|how have you been|how are things|how's it going|how's life)
are you (ok|okay|well|fine|happy|good|all right|alright)( today|)
(hi|hello|hey)(,|) how are (you|things|you doing)( today|)
(how was|how is|how's) your (day|morning|evening|week|mood|weekend)
(everything|all) (ok|okay|good|well|fine|all right)( with you|)
(having|have you had) a (good|nice) (day|time|morning)
(and you|how about you|and how are you|what about you)
""",
    ),
    Topic(
        "thanks",
        "You are welcome. Ask me if you want to know more about ModelCloud.",
        """
(thanks|thank you|thx|ty|many thanks|thanks a lot|thank you very much|thanks so much|thanks a million|much appreciated|merci|danke|gracias|cheers|cheers mate|great thanks|ok thanks|perfect thank you|thank u|tysm)
(thanks|thank you|thx|many thanks|cheers) (for|that was|for your|for the) (help|answer|info|information|helping|answering|time|helpful|good|support|quick answer)
(thanks|thank you|ok thanks|great, thanks|perfect, thanks|cool, thank you)(, that helped| that helped|, that works|, it works|, got it| nano| friend| mate|, understood|, very kind| bot| again|)
i (thank|appreciate) (you|it|your help|that)
(that|this|it) (helped|helped me|helped a lot|was helpful|works|worked|solved my problem|answers my question|fixed it|is helpful|makes sense)(, thanks| thank you| now|)
(i am|i'm) (very |)grateful( to you| for that|)
""",
    ),
    Topic(
        "bye",
        "Goodbye! You can stop mcd with Ctrl-C.",
        """
(bye|goodbye|good bye|bye bye|see you|see you later|see ya|farewell|so long|later|cya|ciao for now|adios|tschuess|au revoir|good night|take care|have a nice day|until next time|i'm off|talk to you later|ttyl)
(bye|goodbye|see you|good night|farewell|take care) (nano|friend|then|for now|later|soon|next time|bot|everyone|mate|again|next week|in the morning|around|my friend)
(i have to|i must|i need to|i will|let me|time to|i gotta) (go|leave|go now|leave now|go to bed|be going|head off)( now|)(, bye|, see you|)
(thanks|thank you|ok|okay|great|well)(,|) (bye|goodbye|see you|good night|see you later|that is all, bye)
(that is all|that's all|that was all|no more questions|nothing else|i am done|i'm done|we are done|i have no more questions)
have a (nice|good|great) (day|evening|night|weekend|one)
""",
    ),
    Topic(
        "praise",
        "Thank you, I am glad to be useful.",
        """
(good|great|nice|excellent|amazing|wonderful|brilliant|fantastic|super) (job|work|answer|bot|model|one|stuff|explanation|reply)
(you are|you're|you were|that was|this is|that is|it is|that's) (good|great|nice|cool|awesome|amazing|helpful|very helpful|so helpful|smart|clever|wonderful|funny|the best|cute|excellent|impressive|perfect|brilliant|sweet|kind)
(well done|bravo|impressive|awesome|wow|cool|nice|great|perfect|excellent|amazing|fantastic|brilliant|neat|sweet|wonderful)
i (like|love) (you|it|this|modelcloud|mcd|that|your answers|this project|your answer)
(very|so|really) (good|nice|helpful|cool|useful|impressive|well done)
""",
    ),
    Topic(
        "insult",
        "I am sorry. I am a very small model and make mistakes. Please put the question in other words, or get a larger model with mcd pull.",
        """
(you are|you're|this is|that is|it is|that's) (wrong|stupid|bad|dumb|useless|an idiot|terrible|nonsense|not true|incorrect|rubbish|not helpful|garbage|not correct|a bad answer|not what i asked|false|silly|not right)
(wrong|nonsense|bad answer|wrong answer|bad bot|rubbish|false|incorrect|that makes no sense|useless|stupid bot|you suck|shut up|bad)
(you|nano) (do not|don't|did not|didn't) (understand|answer my question|help|get it|understand me|know anything|listen)
i (hate|do not like|don't like) (you|it|this|that|your answer)
(i asked|my question was|i meant|i mean) (something else|another question|something different|a different thing)
(are you|why are you) (stupid|dumb|so bad|wrong|so dumb|an idiot|so useless)
""",
    ),
    Topic(
        "ack",
        "All right. Ask me anything about ModelCloud or mcd.",
        """
(ok|okay|yes|no|sure|fine|alright|all right|yeah|yep|nope|i see|got it|understood|right|hm|hmm|aha|ah|oh|maybe|of course|indeed|true|makes sense|lol|haha|hehe|interesting|k|aha ok|good to know|no problem|never mind|nevermind|sorry|my bad|excuse me|pardon|please|go on|continue|and|so|well|test|testing|ping|this is a test|just testing|one two three|check)
(ok|okay|yes|oh|ah|well|hm)(,|) (i see|got it|good|fine|cool|understood|that is fine|right|sure|interesting|sorry|then)
(sorry|i am sorry|i'm sorry|i apologise|pardon me)( about that| for that| my mistake|)
(let me|i will|i'll) (try|try it|try that|think|see|check|do that|think about it)
""",
    ),
]
