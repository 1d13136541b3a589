# ruff: noqa: E501 - a pattern is one line
"""What `modelcloud-nano` knows about the HTTP API, trouble, and itself (pattern language: see `topics_using`)."""

from scripts.nano.topics_using import Topic

API = [
    Topic(
        "url",
        "The API base URL is http://localhost:8080/v1. Point any OpenAI-compatible client at it.",
        """
(what|which) (is the |)(base url|api url|url|endpoint|api endpoint|api address|address|base address)( of the api| of {mcd}| do i use| should i use| for clients|)
(where|at which address|at what url) (is|do i find|can i reach|does) (the |)(api|http api|gateway|endpoint|server)( listen| run| live|)
(base url|api url|url|endpoint|api address|the api|api|gateway|http api)
{how} (reach|call|access|use|query|contact) (the |your |)(api|http api|gateway|endpoint|rest api)
{how} (connect|point|configure|set up|hook up|attach) (my |an |a )(client|app|application|program|editor|ide|chatbot|frontend|agent|plugin|tool)( to {mcd}|)
(what|which) url (do i|should i|must i|to) (put|enter|set|configure|type|use) in (my |the |an )(client|app|application|editor|ide|settings)
(is|are) (the api|mcd|modelcloud|you) (openai compatible|compatible with openai|compatible with the openai api|openai-compatible)
(does|will|can) (my app|my editor|langchain|llamaindex|open webui|aider|continue|vs code|cursor|any openai client|an openai client|my chatbot) (work|connect|run)( with {mcd}| with it| with this|)
{how} use (langchain|llamaindex|open webui|aider|continue|vs code|cursor|an openai client|my chatbot)( with {mcd}| with it| with this|)
(openai|openai api|openai-compatible) (compatibility|compatible|clients|support)
what is (the gateway|localhost:8080|http://localhost:8080/v1)
where do i send (requests|my requests|prompts|http requests)( to|)
(replace|swap) (openai|the openai api) (with|by) {mcd}
""",
    ),
    Topic(
        "curl",
        """Try: curl http://localhost:8080/v1/chat/completions -H 'Content-Type: application/json' -d '{"model":"modelcloud-nano","messages":[{"role":"user","content":"hello"}]}'""",
        """
(give|show|write|send) me (a|an|the) (curl|example curl|curl example|sample curl)( command| call| request| example| line|)
{how} (call|use|query|test|try|reach) (the api|mcd|it|modelcloud|the endpoint) (with|using|from|by) curl
(curl|curl example|curl command|curl call|curl request|example with curl|sample curl)
{how} (use|do it with|write) curl( here| with mcd|)
(give|show) me an (example request|example api call|http example|example of an http request|api example)
(what does|how does) (a|an) (request|api call|http request|chat request) look( like|)
(example|sample) (request|http request|api call|of a request|of an api call)
what is the curl (command|line|syntax|call)( for chat| for a request|)
{how} (make|send|post) (a|my first|an http|an api) (request|api call|call|post)( with curl| over http| by hand|)
""",
    ),
    Topic(
        "python",
        """In Python: from openai import OpenAI; client = OpenAI(base_url="http://localhost:8080/v1", api_key="any"); then client.chat.completions.create(model="modelcloud-nano", messages=[...]).""",
        """
{how} (call|use|query|reach|access|connect to) (the api|mcd|it|modelcloud|the endpoint|you) (with|using|from|in) (python|a python script|python code|the openai library|the openai sdk|the openai client)
(give|show|write) me (a|an|the) (python|openai|openai client|openai sdk) (example|snippet|code|sample)( for mcd| for the api|)
(python|python example|python client|python code|openai client|openai library|openai sdk|openai python|python sdk|from python)( for mcd| for the api| example|)
{how} use (the |)(openai|openai python|official) (client|library|sdk|package)( with {mcd}| here|)
(does|can|will) (the |)(openai|openai python|official) (client|library|sdk) (work|be used|run)( with {mcd}| with it| here|)
can i (call|use|query|script) (mcd|it|modelcloud|the api) (from|in|with) (python|a script|a notebook|jupyter|my code|javascript|node|typescript|go|rust)
{how} (call|use|query) (mcd|modelcloud|the api) (from|in|with) (a script|a notebook|jupyter|my code|javascript|node|typescript|go|rust)
is there (a|an) (python|javascript|official|client) (library|sdk|client|package)( for {mcd}|)
what (sdk|library|client library) (do i|should i|can i) use
""",
    ),
    Topic(
        "key",
        "No API key is needed on localhost. If your client insists on one, any text will do.",
        """
(do i|must i|should i) (need|have|use|provide|set|get|create) (an |a |the |)(api key|key|token|password|account|login|api token)( for the api| for mcd| to use it|)
(is|are) (an |a |)(api key|key|account|login|registration|authentication|password) (needed|required|necessary|mandatory)
(what|which|where) (is|is the|do i get the|do i get an|do i find my) (api key|api token|key for the api)
(api key|api token|account|login|registration|authentication|sign up|password)
{how} (get|create|obtain|make|generate|set) (an |a |my |)(api key|api token|account|login)
(do i|must i) (register|sign up|log in|create an account|make an account)( first| somewhere|)
what (do i|should i) (write|enter|put|set|use|give) (as|for|in) (the |)(api key|api_key|openai_api_key|key)( field| variable|)
(does|do) (the api|mcd|you) (need|check|ask for|require|use) (a |an |)(key|api key|token|password|account)
(my client|my app|the openai client|it|the library) (asks for|wants|insists on|requires|demands) (a |an )(key|api key|token)
""",
    ),
    Topic(
        "stream",
        'Yes, streaming works: set "stream": true and tokens arrive as server-sent events while the provider generates them.',
        """
(does|do|can) (mcd|it|the api|you|modelcloud) (stream|support streaming|do streaming|send tokens as they come|stream tokens|stream the answer)
(is|are) streaming( responses| answers|) (supported|possible|available|on)
{how} (stream|get a stream|enable streaming|turn on streaming|receive tokens as they come|use streaming|get streamed answers)( of tokens| tokens| answers|)
(streaming|stream|sse|server-sent events|stream true|token stream|streamed answers)
(will|do|can) i (see|get|receive) (tokens|words|the answer|the text) (as they are generated|as it is generated|one by one|piece by piece|live|immediately|gradually)
(are|is) (the answer|answers|tokens|words|the text) (streamed|sent live|sent one by one|sent piece by piece|delivered gradually)
(how|in what format) (are|do) (tokens|answers|chunks) (arrive|delivered|streamed|sent|come)
what (format|protocol) (is|does) the (stream|streaming)( use| have|)
""",
    ),
    Topic(
        "endpoints",
        "Under /v1 there are chat/completions and models. Other endpoints, such as embeddings, work only if this version and the model have them: see CAPS in mcd models.",
        """
(what|which) (endpoints|routes|paths|api endpoints|api routes|parts of the openai api|apis) (are there|exist|are supported|does mcd have|do you support|can i call|are available|does it support)
(endpoints|supported endpoints|api endpoints|list of endpoints|routes of the api|api reference)
(does|do|can) (mcd|the api|it|you|modelcloud) (support|have|offer|do|make|return) (embeddings|embedding vectors|tool calls|function calling|tools|json mode|structured output|rerank|reranking|the responses api|completions|legacy completions|the anthropic api|messages|logprobs)
(are|is) (embeddings|tool calls|function calling|json mode|structured output|reranking|the responses api|vision) (supported|available|possible)
(embeddings|tool calling|function calling|json schema|structured output|json mode|rerank|responses api|chat completions)
{how} (get|make|compute|use|call|request) (embeddings|tool calls|function calling|json output|structured output|reranking|the responses api)
(list|show|name) (the |all |)(endpoints|api endpoints|routes)
""",
    ),
    Topic(
        "cancel",
        "Just close the connection: the cancel reaches the provider, which stops within one decode step.",
        """
{how} (cancel|abort|interrupt|break off) (a request|my request|an answer|the generation|a running request|generation)
(cancel|abort|interrupt) (a request|my request|the generation|an answer)
what happens (when|if) i (cancel|abort|interrupt|close the connection|disconnect|hang up|close my client|close the browser)( a request| during an answer| early|)
can i (cancel|abort|interrupt|stop) (a request|my request|an answer|the generation|generation early)
(does|will) the (provider|gpu|model) (stop|go on|continue|keep going|keep computing) (when|if|after) i (cancel|disconnect|close the connection|abort|leave)
(cancelling|cancellation|aborting|request cancellation)
""",
    ),
    Topic(
        "port_busy",
        "Another program is using port 8080. Stop it, or start mcd on another port: mcd run --http 127.0.0.1:8081.",
        """
(port|tcp port|the port|port 8080|8080) (is |)(already |)(in use|taken|occupied|busy|used|blocked by another program|not free)
(address|socket) already in use
{how} (change|set|choose|use|pick) (the|a|another|a different) (port|http port|listen port|http address|api port)
(can i|may i) (change|set|choose|use) (the|a|another|a different) (port|http port|api port)
(error|i get|it says|i see|message)( the error|) (address already in use|port already in use|bind failed|cannot bind|port 8080 in use|eaddrinuse|errno 98)
(cannot|can't|could not|unable to) (bind|listen on|open) (the port|port 8080|to port 8080|8080|the address)
(another|some other|a different) (program|process|app|service|server) (uses|is using|is on|has|occupies|holds) (port 8080|8080|the port|my port 8080)
(use|run on|listen on) (another|a different|some other) port( than 8080|)
""",
    ),
    Topic(
        "no_peers",
        "If no peers appear, run mcd doctor and check network, firewall and clock, or name a known peer with mcd run --bootstrap ADDRESS.",
        """
(no|zero|0) (peers|nodes|connections|neighbours)( found| appear| visible| connected| at all|)
(i|my daemon|mcd|my node) (see|sees|find|finds|have|has|cannot find|can't find|does not find|do not see|don't see) (no|any|zero) (peers|nodes|other peers|connections)
why (do i|does mcd|does my node) (see|have|find) (no|zero|so few) (peers|nodes|connections)
(mcd peers|the peer list|peer list) (is empty|shows nothing|shows no one|prints nothing|returns nothing|stays blank)
(cannot|can't|could not|unable to|fail to|failed to) (connect|join|reach|get into|enter)( to|) (the mesh|the network|peers|any peer|other peers|the bootstrap peer)
(joining|connecting to) the (mesh|network) (fails|does not work|takes forever|times out|hangs)
(mesh|network) (unreachable|is not reachable|cannot be reached|down|connection failed)
(bootstrap|bootstrap peer|discovery) (fails|failed|does not work|unreachable|times out)
(nobody|no one) (is|seems) (connected|online|there|in the mesh)
(i am|i'm) (isolated|alone|not connected|disconnected)( in the mesh| from the mesh|)
(my firewall|a firewall|the company firewall|a proxy) (blocks|is blocking|stops) (mcd|the connection|the mesh|peers)
""",
    ),
    Topic(
        "no_gpu",
        "mcd run --gpu needs a driver and a GPU build of llama.cpp; if there is none, its error says how to build one. Until then use mcd run --cpu.",
        """
(mcd|it|modelcloud|the daemon|doctor|--gpu) (does not|doesn't|cannot|can't|will not|won't|did not|fails to) (find|see|detect|use|recognise|recognize) (my |the |a |any ){gpu}
(my |the ){gpu} (is not|isn't|was not) (found|detected|used|seen|recognised|recognized|visible|working)
(no gpu|gpu not|cuda not|metal not|vulkan not|cuda|rocm not) (found|detected|available|error|recognized|working)
(cuda|rocm|vulkan|driver|nvidia driver|metal) (error|errors|problem|problems|missing|is missing|not installed|version mismatch|fails)
why (is|does) (my |the ){gpu} not (found|detected|used|work|working|recognised|show up)
--gpu (fails|does not work|gives an error|has no effect|says no gpu)
{how} (fix|solve|repair) (the |my |)(gpu|cuda|driver|graphics card) (problem|error|detection|trouble)
(it|mcd) (still |only |)(uses|runs on|falls back to) the (cpu|processor)( instead of the gpu| although i have a gpu| even with --gpu)
""",
    ),
    Topic(
        "slow",
        "For more speed use a GPU, a smaller or more quantised model, or a faster provider; mcd route MODEL --explain shows the expected times.",
        """
(it|mcd|the answer|the model|generation|inference|modelcloud|everything|my request|the response) (is|runs|feels|takes|seems) (slow|so slow|very slow|too slow|slowly|laggy|too long|forever|very long|sluggish)
why (is|are|does) (it|mcd|the answer|the model|generation|inference|modelcloud|my request|answers) (slow|so slow|very slow|too slow|take so long|taking long|laggy)
{how} (make|get) (it|mcd|the model|inference|generation|answers|things) (faster|quicker|speedier|run faster|go faster)
{how} (speed up|accelerate|improve the speed of|optimise|optimize|tune) (it|mcd|the model|inference|generation|answers|performance)
(slow|slow answers|slow generation|speed|performance|throughput|latency|tokens per second|low speed)
how (fast|quick) (is it|is mcd|is the model|are answers|is modelcloud|are you)
how many tokens per second( do i get| can i expect| does it do|)
(high|bad|poor|terrible) (latency|performance|speed|throughput|lag)
(waiting|i wait) (too long|forever|ages) for (an answer|the answer|tokens|the first token)
""",
    ),
    Topic(
        "no_provider",
        "404 means that nobody serves that model now: see mcd models, or pull it and serve it yourself. 503 means that its providers cannot take the request now: try again.",
        """
(no|zero) (provider|providers)( found| available| for this model| for that model| online| error|)
(model|the model) (not found|is not found|unknown|does not exist|is not available|unavailable|missing)
(it|mcd|the api) (says|returns|answers|reports|gives) (no provider|model not found|no provider available|404|503)
(what does|why do i get|what means) (no provider|no provider available|model not found|the 404|the 503|error 503|error 404)( mean| error|)
why is (no provider|nobody|no peer) (available|found|serving my model|offering this model)
what (happens|if) (when|if|) (nobody|no one|no provider|no peer) (serves|offers|has|runs) (my|the|this|that) model
(i cannot|i can't) (find|use|reach) (the model i want|a provider|any provider)
all providers are (busy|down|gone|offline|full|refusing)
""",
    ),
    Topic(
        "oom",
        "The model does not fit into memory. Take a smaller or more quantised one; mcd show MODEL says what memory a model takes.",
        """
(out of memory|oom|not enough memory|insufficient memory|memory error|cuda out of memory|vram full|ran out of memory)
(it|mcd|the engine|the model|loading) (runs out of|ran out of|needs too much|uses too much|does not have enough|fills all my) (memory|vram|ram|gpu memory)
(my|the) (model|weights) (does not|doesn't|do not|will not|won't) fit( in memory| in vram| into the gpu| on my card|)
(i have|my {pc} has|the gpu has) (too little|not enough|insufficient) (memory|vram|ram)
{how} (use less|reduce|save|lower) (memory|vram|ram)( use| usage|)
(allocation|memory allocation|loading the model) (failed|fails|error)
(process|mcd|the engine) (was |got |)(killed|killed by oom|oom killed)( for memory| while loading|)
can i run a (70b|big|large|huge|32b) model (with|on) (8|4|6|12|16) gb
""",
    ),
    Topic(
        "self",
        "I am modelcloud-nano, a very small language model inside mcd. I can answer questions about ModelCloud, offline and free.",
        """
who are you
what are you
(who|what) (exactly |)are you( anyway| really|)
(what is|what's|tell me) your name
(introduce|describe|present|explain) yourself
(tell me|say something) about yourself
(are you|is this|am i speaking to|am i talking to|am i chatting with) (chatgpt|gpt|gpt-3|claude|gemini|llama|siri|alexa|copilot|openai|mistral|bard)
(which|what) (model|llm|language model|ai) (are you|is this|am i using|am i talking to|answers me|do i speak to)
what is (modelcloud-nano|nano|the nano model|the embedded model|the built-in model|the default model|the small model)
{explain} (modelcloud-nano|nano|the nano model|the embedded model|the default model)
(modelcloud-nano|nano)
do you have a name
your name
how (big|large|small) are you
how many parameters (do you|does nano) have
how (smart|clever|intelligent|good|capable) (are you|is nano)
""",
    ),
    Topic(
        "human",
        "No, I am not a person. I am modelcloud-nano, a very small language model that runs inside mcd.",
        """
are you (a |)(human|person|real|real human|real person|alive|man|woman|robot|bot|machine|ai|an ai|computer|conscious|sentient)
are you (human|a person|a man) or (a machine|a robot|a bot|an ai|a computer|not)
(am i|is this) (talking to|chatting with|speaking with|writing to|) (a |)(human|person|robot|bot|machine|computer|somebody real)
(do you|can you) (have feelings|feel|think|sleep|eat|dream|get tired|get bored|have a body|have emotions|love)
how old are you
where (are you from|do you live|were you born)
is (there|this) a (human|person|robot|bot|machine) (there|behind this|answering|on the other side)
(is this|are you) (artificial intelligence|artificial|automated|software|a program)
""",
    ),
    Topic(
        "made",
        "I was trained from scratch by the scripts of the ModelCloud repository, on generated questions and answers about mcd.",
        """
who (made|built|created|trained|programmed|wrote|designed|invented|developed) you
(how|where|when|on what|with what|with which data) (were you|are you|was nano) (made|built|created|trained|programmed|taught)
who (is|are) your (creator|creators|maker|author|authors|developer|developers|owner|father|parents|boss)
(what|which) data (were you trained on|did you learn from|was used to train you|is in you)
{how} (train|retrain|reproduce|rebuild|build) (you|nano|modelcloud-nano|the nano model|the embedded model)
(your|nano) training( data|)
what do you know about your (training|origin|creators)
who (owns|controls) you
""",
    ),
    Topic(
        "can_do",
        "You can ask me how to install and run mcd, use its API, serve models, and what is private. For more, get a larger model with mcd pull.",
        """
what can (you|nano|modelcloud-nano) (do|answer|tell me|help with|help me with|explain)
what (do you know|are you able to do|are your abilities|are your skills|are you good at|are your limits|can't you do|are you good for)
what (can|should|could|may|do) i ask( you| here| about|)
(how|with what) can you help( me|)
can you (help|help me|assist|assist me|answer questions|answer a question|answer something|explain something)( please|)
(help|help me|i need help|please help|i need assistance|assist me|support)( please|)
i have (a question|some questions|a few questions|something to ask)
(may|can|could) i ask (you |)(something|a question|questions|anything)
(give me|show me|suggest) (some|a few|an|) (example questions|questions|ideas what to ask|topics|example)
(which|what) (topics|questions|subjects) (do you know|can you answer|do you cover|are you trained for)
can you (answer|do) (anything|everything|any question|all questions)
what else (can you do|do you know|can i ask|is there)
i (do not know|don't know) what to ask
""",
    ),
]
