# ruff: noqa: E501 - a pattern is one line
"""What `modelcloud-nano` knows about model files, special flags and make (pattern language: see `topics_using`)."""

from scripts.nano.topics_using import Topic

MODELS = [
    Topic(
        "show",
        "The command mcd show MODEL says what a model is, where it comes from, its licence and what memory it takes.",
        """
mcd show( MODEL| qwen3-8b| {model}|)
what is (mcd show|the show command)( for|)
what does (mcd show|the show command) do
{how} {show} (details|facts|information|the details|more) (of|about|on) (a|one|this|that|some|a certain) model
{cmd} {shows} (details|facts|information|the details|everything|more) (of|about|on) (a|one|this|that) model
how much (memory|ram|vram|room|gpu memory) does (a|one|this|that|the|some) (certain |particular |pulled |)model (need|take|use|occupy|want)
how much (memory|ram|vram) does {model} (need|take|use|want|require)
(what|which) (licence|license|context length|source|quantisation|size) (has|does) (a|one|this|that) (pulled |certain |)model( have|)
{how} (know|find out|learn|see) (where a model comes from|the licence of a model|the license of a model|what memory a model takes|how big a model is|the size of a model)
where does (a|this|that|the) model come from
(model details|model facts|memory of a model|licence of a model|origin of a model|details of one model|model card)
(inspect|describe|examine) (a|one|this) model( file|)
before i pull (it|a model|that model), (can i see|how do i see|where do i see) (what it needs|its size|its licence|how big it is)
tell me (more |)about one (of the models|model in the list)
""",
    ),
    Topic(
        "rm",
        "The command mcd rm MODEL deletes a model that you pulled; mcd models --local lists what there is.",
        """
mcd rm( MODEL| qwen3-8b| {model}|)
what is (mcd rm|the rm command)( for|)
what does (mcd rm|the rm command) do
{how} (remove|delete|erase|throw away|uninstall|get rid of|drop) (a|one|the|an old|a pulled|a downloaded|some|my|that) (model|models|model file|gguf)( again| from my disk| from the disk| i no longer need|)
{how} (remove|delete|erase|uninstall|get rid of) (old|pulled|downloaded|unused|all|big) (models|model files)
{how} (remove|delete|uninstall|get rid of) {model}
(remove|delete|erase|uninstall) (a model|one model|old models|{model}|the model i pulled|unused models)
{cmd} (deletes|removes|erases) (a model|models|pulled models|model files)
{how} (free|save|get back|win back|reclaim) (disk space|space|room on my disk|some disk)
(my disk is full|the disk is full|no disk space left|no space left on device|disk full|not enough disk space)
(i no longer need|i do not want|i am done with) (a|this|that) model( any more|), (how do i delete it|how do i remove it|get rid of it)
(deleting a model|removing models|model removal|cleaning up models|free disk space|delete weights)
""",
    ),
    Topic(
        "local",
        "The command mcd models --local lists the model files on this machine; it asks no daemon. They lie in ~/.modelcloud/models.",
        """
mcd models --local
what (is|does) (mcd models --local|--local|the --local flag)( do| for|)
(which|what) models (have i|did i|do i have|are) (pulled|downloaded|fetched|already here|on my disk|on this machine|stored here|local|installed)( here| already|)
{how} {show} (my|the|all) (local|pulled|downloaded|own|installed|fetched) (models|model files)
{cmd} {shows} (my|the) (local|pulled|downloaded|own|installed|fetched) (models|model files)
{show} (me |)(my|the) (local|pulled|downloaded|installed|fetched) (models|model files)
(where|in which folder) (are|do) (the |my |)(pulled|downloaded|fetched) (models|model files|weights|ggufs)( lie| kept| stored| go|)
(where|in which folder) (do i|can i|should i) (put|copy|place|drop) (my own |an own |a )(gguf|model file|model)( file|)
(local models|models on my disk|downloaded models|pulled models|model folder|models folder|installed models|models here)
what models do i own
(is|are) (a|the|any) (model|models) (already |)(on my disk|here|downloaded)
""",
    ),
    Topic(
        "gated",
        "Accept the terms on the model's page, make a token in the hub's settings, set HF_TOKEN to it and pull again.",
        """
(gated model|gated models|hf_token|HF_TOKEN|hub token|hugging face token|huggingface token|model behind terms|terms of a model|401 from the hub|403 from the hub)
what is (hf_token|HF_TOKEN|a gated model|a gated repository)( for|)
(mcd pull|the pull|pulling|the download|the hub) (says|fails|answers|stops) (with |)(401|403|unauthorized|forbidden|gated|access denied|that i must accept terms|that the model is gated)
{how} (pull|download|get|fetch) (a |)(gated|restricted|protected|private) (model|models|repository|repo)
{how} (use|set|give|enter|pass) (my |a |the |)(hugging face|huggingface|hub|hf) (token|login|account|credentials)
(do i need|is there) a (hugging face|huggingface|hub) (account|token|login)( to pull| for models| to download|)
(the model|this model|llama) (is gated|wants me to accept terms|needs a licence agreement|needs permission|asks for a token)
(where|how) do i (put|set) (the |my |)(hf token|hub token|HF_TOKEN)
""",
    ),
    Topic(
        "pull_other",
        "mcd pull REPO:FILE.gguf fetches any GGUF file of the Hugging Face hub, so also another quantisation; mcd pull REPO says which files there are.",
        """
mcd pull (REPO:FILE|REPO:FILE.gguf|REPO)
{how} (pull|download|get|fetch) (another|a different|a smaller|a certain|a specific|the q8_0|the q4|a larger) (quantisation|quantization|quant|file|variant)( of a model|)
{how} (pull|download|get|fetch) (any|a|some) (gguf|file|model|gguf file) (from|of) (hugging face|huggingface|the hub|a repository|a repo|any repo)
(can|could) (i|mcd pull|it) (pull|download|get|fetch) (any|a|every) (gguf|model|file|gguf file)( file|) (from|on|of) (hugging face|huggingface|the hub)
{how} (pull|download|get|fetch) (a model|models) (that is not|which is not|not) (in the list|known by name|listed|in the catalogue)
(other|another|different|smaller) (quantisation|quantization|quant|quants)( of a model| to pull|)
(hugging face|huggingface|the hugging face hub|hf hub|any gguf from the hub|repo and file)
what (quantisation|quant|quantization) (does mcd pull take|do i get|is pulled)
(q4_k_m|q8_0|q5_k_m|q6_k) (instead|please|file|version)
""",
    ),
    Topic(
        "version",
        "The command mcd version prints the version of mcd.",
        """
mcd (version|--version)
what (is|does) (mcd version|the version command|mcd --version)( do| for|)
(which|what) version (of mcd |of the software |)(is this|do i have|am i running|is it|is running|is installed)
{how} {show} (the |my |)(version|version number)( of mcd| of {mcd}|)
{cmd} {shows} (the |my |)(version|version number)( of mcd|)
(version|version number|mcd version number|installed version|my version)
{how} (know|find out|tell) which version (i have|is installed|runs here|this is)
""",
    ),
    Topic(
        "make",
        "make run starts a peer with the embedded model, make run-entry one without a model, make test runs every test, make demo shows failover, make bench measures.",
        """
(make|make targets|makefile|make commands|make help|the makefile)
(which|what) (make targets|make commands|targets) (are there|exist|can i use|does the makefile have)
{how} run (the |all |your |)tests
(make test|run the tests|the test suite|running tests|unit tests|testing the code|tests)
what does (make test|make demo|make bench|make check) do
(make demo|make bench|make check|make bench-engine)
{how} (see|run|start|watch) (the |a |)(demo|benchmark|benchmarks|demonstration|bench)
(is there|do you have|show me) a (demo|demonstration|benchmark|test suite)
{how} (measure|benchmark|test) (mcd|the speed of mcd|the code|the project|the repository)
(demo|demonstration|benchmark|benchmarks|performance measurements)
""",
    ),
    Topic(
        "entry_only",
        "You need not serve: mcd run without --cpu and --gpu only sends your requests to others. make run-entry sets that up and compiles nothing.",
        """
make run-entry
what (is|does) (make run-entry|run-entry|an entry only peer|entry mode)( do| for|)
can i (only|just) (send requests|ask|use it|use models|be a user|consume)( without serving| without a model| without sharing|)
(do|must) i (have to |need to |)(serve|share|offer|provide|contribute) (models|anything|my gpu|something|a model|my machine)( to use it| to take part| myself|)
{how} use (it|mcd|modelcloud|the mesh) (only as a client|without serving|without sharing my gpu|just as a user|without giving anything|without serving anything)
(entry only|client only|only an entry peer|use without serving|consumer mode|just a client|asking only|without compiling|no compiler)
{how} (start|run|launch) {mcd} (as an entry only|only as an entry|without a model|without serving|as a mere client)
(is|can) (it|mcd) (used|be used) without (serving|a model|a compiler|compiling|building llama.cpp)
{how} (install|set up) {mcd} without (a compiler|compiling|building llama.cpp|serving)
i (just|only) want to (use|ask|query) (models|the mesh|other people's gpus|others)( not serve|)
i (do not|don't) want to (serve|share|offer|lend) (anything|my gpu|my machine|a model)(| but use it)
""",
    ),
    Topic(
        "bootstrap",
        "Start mcd run --bootstrap ADDRESS to join through a known peer; mcd id prints a peer's address. Peers on the local network are found by themselves, unless you say --no-lan.",
        """
what (is|does) (--bootstrap|the bootstrap flag|mcd run --bootstrap|--no-lan|the --no-lan flag)( do| for|)
(mcd run --bootstrap|--bootstrap|--no-lan|bootstrap address|known peer|known peers|peer address|joining a friend)
{how} (connect|link|join) (to |)(a friend's peer|a known peer|a certain peer|my other machine|my other computer|two of my machines|a friend|my second peer|each other)
{how} (connect|link|join) (two|my two|several|our) (peers|machines|computers|nodes)( by hand| of mine| over the internet|)
{how} (tell|say|name|give) (mcd|it) (the |an |)(address of a peer|address of a friend|known peer|bootstrap address|first peer)
(my friend|a friend|my colleague) (runs|has|started) (mcd|a peer)( too|), how (do we|do i|can i|can we) (connect|join|link up|meet)
(where|how) do i get (the |an |)(address|multiaddr|multiaddress) (of a peer|to give to others|for --bootstrap|of my peer)
{how} (turn off|disable|switch off|stop) (lan discovery|local discovery|mdns|the search on the local network)
{how} (set up|make|build|start) (a |my own |our own |a private )(private mesh|mesh|network|private network)( at home| at work| with friends|)
(own network|private mesh|separate network|--network)
""",
    ),
    Topic(
        "upstream",
        "mcd run --cpu --engine openai:URL serves another OpenAI-compatible server, such as Ollama, vLLM or llama-server, to the mesh.",
        """
what (is|does) (--engine|the engine flag|--engine openai|--engine openai:URL|the --engine flag)( do| for|)
(--engine|mcd run --engine|--engine openai:URL|openai engine|upstream server|another engine|other engines)
(can|could) (i|mcd|we) (use|serve|offer|connect|share|put) (vllm|ollama|my ollama|another engine|sglang|llama-server|lm studio|my vllm server|an existing server|my own server) (instead|with mcd|as the engine|as a backend|to the mesh|behind mcd|through mcd)
{how} (use|serve|offer|connect|share|put) (vllm|ollama|my ollama|another engine|sglang|llama-server|lm studio|my vllm server|an existing server) (instead|with mcd|as the engine|as a backend|to the mesh|behind mcd|through mcd)
i (have|run|use) (ollama|vllm|sglang|lm studio|a llama-server|an inference server)( already| here|)(, can mcd use it|, can i share it|, does it fit together|, how do i connect it|)
(ollama|vllm|sglang|lm studio|llama-server) (backend|engine|support|integration|behind mcd)
""",
    ),
    Topic(
        "json",
        "Add --json to a command that reads, such as mcd peers --json: it prints JSON with stable names for scripts.",
        """
what (is|does) (--json|the json flag|the --json flag|the json option)( do| for|)
(--json|machine readable output|output for scripts|json from the command line|parse the output)
{how} (get|print|have) (json text|machine readable output|output for a script) (from|of|out of) (mcd|the commands|the command line|mcd peers|mcd status|mcd models)
(can|does) (mcd|the cli|mcd status|mcd peers|the command) (print|output|give|write) json
{how} (script|automate|parse) (mcd|the cli|the commands|its output|the output of mcd)
(use|call) mcd (from|in) a (shell script|script|cron job)
""",
    ),
]
