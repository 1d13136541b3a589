# ruff: noqa: E501 - a pattern is one line
"""What `modelcloud-nano` knows about using `mcd`: one answer per topic, and patterns of the questions that ask for it.

Pattern language (see `corpus.expand`): ``(a|b|)`` picks one, ``{name}`` is a macro of `corpus.MACROS`, one pattern a line.
"""

from typing import NamedTuple


class Topic(NamedTuple):
    """One thing the model can answer."""

    key: str
    answer: str
    patterns: str


USING = [
    Topic(
        "what",
        "ModelCloud is a peer-to-peer mesh in which people's own GPUs serve open language models. Every peer runs the mcd daemon.",
        """
what is {mc}
(what|tell me what|so what) exactly is {mc}
{explain} {mc}
{explain} (what|how) {mc} (is|works)
{mc}
{mc} (in short|in brief|in a nutshell|summary|overview|explained|definition|meaning)
what (does|can) {mc} do
what is (the idea|the point|the goal|the purpose|the use) (of|behind) {mc}
(how does|how do) {mc} work
(give|write) (me|us) (an overview|a short description|an introduction|a summary|a short summary|the gist) of {mc}
(describe|introduce|summarize|define) {mc} (for me|in a few words|in plain words|in one line|simply|)
why (would|should) i (use|try|care about|want) {mc}
what kind of (project|software|network|system|product|thing) is {mc}
(i am new|i'm new|new) (here|to this|to modelcloud)(|, what is this|, where do i start|, explain it)
what (is|'s) this (project|all|thing|network|about)(| about)
what problem does {mc} solve
is {mc} a (cloud|website|company|blockchain|service|peer to peer network)
who (is|would use) {mc}( for|)
(what is|what's) (good|special|new|different) about {mc}
""",
    ),
    Topic(
        "mcd",
        "mcd is the ModelCloud daemon: one program that joins the mesh, takes OpenAI-compatible requests on localhost:8080 and can serve models on your GPU or CPU.",
        """
what is (mcd|the daemon|the mcd daemon|the mcd program)
what (does|will) (mcd|the daemon|the mcd daemon|the mcd program|the mcd process) do( for me| on my {pc}|)
{explain} (mcd|the daemon|the mcd daemon|the mcd binary)
(mcd|the daemon|mcd daemon)
what does mcd (mean|stand for)
what is mcd (good for|used for|for)
(meaning|purpose|role|job|function) of (mcd|the daemon|the mcd program)
what happens when i (start|run|launch) mcd
what is (a daemon|a peer|a node) (here|in modelcloud)
(why do i need|do i need|what do i need) (mcd|the daemon)( for|)
(what|which) roles (does a peer|can a peer|does mcd) have
what is (an entry peer|a provider|an entry|the entry)
(what is the|difference between) provider and entry( peer|)
how (does|is) (mcd|the daemon) (work|built|structured)
is mcd (a server|a client|both|one program|a background service)
""",
    ),
    Topic(
        "install",
        "To install, clone the repository and type make run: it sets up a virtual environment, builds llama.cpp once (5 to 15 minutes) and starts your peer.",
        """
{how} (install|set up|setup|get|obtain|download|build|deploy) {mcd}( on {os}| on my {pc}| from source| from scratch|)
(install|installation|installing|setup|set up|setting up)( {mcd}| guide| instructions| steps| on my {pc}|)
how (is|does) (the |)(installation|install|setup|set up) (done|work|go)
(where|from where) (do|can) i (get|download|find) {mcd}
{mcd} (install|installation|download|setup)( steps| guide| help| command|)
what are the (install|installation|setup) (steps|instructions|commands)
(give|show|tell) me (the |)(install|installation|setup) (steps|instructions|commands|guide)
what is make run
what does make run do
(run|use|type|start with) make( run|)
(how to|how do i) (use|run|call) make( run|)
(i want|i would like|i'd like) to (install|try|set up) {mcd}
how (long|hard|difficult|easy) is (the installation|it to install|installing|the setup)
is there (an installer|a package|a pip package|a docker image)
(pip|apt|brew|docker) install (mcd|modelcloud)
can i (pip|apt|brew) install {mcd}
(i have|i've) (just |)(cloned|downloaded|checked out) (the repository|the repo|the source|the code)(|, what next|, what should i do|, and then|, how do i continue)
(getting started|get started|quick start|quickstart|first steps|how to start|how to begin|where to begin)( with {mcd}|)
how do i (get started|begin|start from zero)( with {mcd}|)
steps to (install|set up|get|have) {mcd}( running|)( on {os}|)
(put|get|have|bring) {mcd} (on|onto) (my|this|a) (new |)(linux |windows |)({pc}|device)
how do i (put|get|bring) (it|this|mcd|modelcloud|the software|the program) (on|onto|running on) (my|this|a) (new |){pc}
(which|what) (packages|software|things) do i need to install (first|before|)
""",
    ),
    Topic(
        "cpu",
        "Without a GPU use mcd run --cpu. It serves modelcloud-nano on the processor at once, and your peer can still send requests for larger models to others.",
        """
{how} (run|start|launch|use) {mcd} (without|with no) (a |){gpu}
{how} (run|start|launch|use|compute|work) (it |{mcd} |)(on|with) (the |my |only the |)(cpu|processor|cpu only)
(what|how) (about|if) (i have no|i do not have a|i don't have a|i lack a|there is no|without a|my {pc} has no) {gpu}
i (have no|do not have a|don't have a|lack a|own no|am without a) {gpu}
my {pc} (has no|does not have a|doesn't have a|lacks a|is without a) {gpu}(|, what now|, can i still use it|, is that a problem)
(do i need|must i have|is it necessary to have|is it required to have) (a |an |){gpu}
(is|are) (a |){gpu} (required|needed|necessary|mandatory)
can i (use|join|run|try) {mcd} without (a |){gpu}
can (mcd|it|modelcloud) (run|work|compute) (on|with) (just |only |)(a |the |my |)(cpu|processor)
(cpu|cpu only|cpu mode|processor only|no gpu)( mode| support| flag| option|)
what is (mcd run --cpu|--cpu|the cpu flag|the --cpu flag|the cpu mode)( for|)
what does (mcd run --cpu|--cpu|the cpu flag|the --cpu option) do
mcd run --cpu
(only|just) a (cpu|processor) (here|available|in my {pc})
(an old|a cheap|a small|a weak) {pc}(|, does it work|, is it enough|, will it run)
will (it|mcd|modelcloud) (run|work) (on|with) (an old|a cheap|a small|a weak|my) {pc} without (a |){gpu}
(integrated graphics|no graphics card|no dedicated gpu)(| only|, does it work)
""",
    ),
    Topic(
        "gpu",
        "To use your GPU start mcd run --gpu. It loads the model onto the graphics card and serves it to you and to the mesh.",
        """
{how} (use|enable|activate|turn on|employ|take advantage of) (my |the |a ){gpu}( with {mcd}| for inference|)
{how} (run|start|launch) {mcd} (on|with|using) (my |the |a |){gpu}
{how} (run|compute|serve) (models|a model|inference) on (my |the |a ){gpu}
(gpu|gpu mode|gpu support|gpu flag|gpu option|gpu acceleration)
what is (mcd run --gpu|--gpu|the gpu flag|the --gpu flag|the gpu mode)( for|)
what does (mcd run --gpu|--gpu|the gpu flag|the --gpu option) do
mcd run --gpu
(which|what) (flag|option|switch|parameter|argument) (is for|turns on|enables|uses|selects|do i need for) (the |my |){gpu}
can (mcd|modelcloud|it|you) use (my |the |a ){gpu}
(i have|i own|i bought|i got|there is) (a |an |two ){gpu}(|, how do i use it|, what do i type|, how do i start)
make (mcd|it) (use|run on|work with) (my |the ){gpu}
(offer|share|contribute|lend|provide|donate|add) (my |the |a ){gpu}( to the mesh| to others| to {mc}| to the network|)
{how} (offer|share|contribute|lend|provide|donate|add) (my |the |a ){gpu}( to the mesh| to others| to {mc}|)
{how} (become|be) a provider
{how} serve (models|others|requests|the mesh)( with my {gpu}|)
(accelerate|speed up) (mcd|it|inference) with (my |the |a |){gpu}
(run|start|launch) (it |mcd |)(on|with) (the |my |){gpu}
""",
    ),
    Topic(
        "run_model",
        "To serve a particular model type mcd run --gpu --model MODEL (or --cpu). MODEL is a name you pulled or a GGUF file of your own.",
        """
{how} (run|serve|start|load|host|use|launch|select|choose|switch to|offer) {model}( with {mcd}| on my {pc}|)
(run|serve|start|load|host|launch|switch to) {model}( with {mcd}| on my {pc}| instead|)
{how} (choose|select|pick|change|switch|set|specify) (the|a|my|another|which) model
(which|what) (flag|option|argument) (chooses|selects|picks|sets|changes|is for) the model
what is (mcd run --model|--model|the model flag|the --model flag)( for|)
what does (mcd run --model|--model|the model option) do
mcd run --model
can i (run|serve|host|use) (a different model|another model|my own model|my own gguf|other models|{model})
(serve|host|run) (more than one|several|two|multiple) models
{how} (serve|run|host) (more than one|several|two|multiple) models
(start|run|launch) mcd with (another|a different|a larger|a specific|a particular|my own|a certain) model
(i want|i would like|i'd like) to (host|serve|run|offer) {model}
(use|take|run) {model} (instead of|rather than) (nano|modelcloud-nano|the default|the small one)
replace (nano|the default model|the embedded model|modelcloud-nano)( with {model}|)
""",
    ),
    Topic(
        "run",
        "The command mcd run starts your peer. With --cpu or --gpu it also serves a model; --help lists its other flags.",
        """
mcd run
what (is|does) (mcd run|the run command|run)( do| for|)
{how} (start|run|launch|boot|fire up) ({mcd}|my peer|my node|the mesh)
(start|run|launch|fire up|starting|running|launching) ({mcd}|my peer|my node)
{how} (start|run|launch) {mcd} (the first time|after installing|after the installation|by hand|from the shell)
(which|what) command (starts|launches|runs) ({mcd}|my peer|my node)
(which|what) flags (does mcd run have|are there for mcd run|can i give to mcd run)
""",
    ),
    Topic(
        "pull",
        "To download a model type mcd pull MODEL; it comes from the Hugging Face hub and its SHA-256 is checked. mcd pull --list shows the names. Then mcd run --gpu --model MODEL serves it.",
        """
{how} (download|pull|get|fetch|install|obtain|add) (a model|models|another model|a larger model|a bigger model|more models|new models|{model})( file| weights|)
(download|pull|get|fetch|install|add) (a model|models|another model|a larger model|a better model|more models|new models|{model})
what is (mcd pull|pull|the pull command)( for|)
what does (mcd pull|pull|the pull command) do
mcd pull
(where|from where) (do|can|will) i (get|download|find) (models|more models|larger models|other models|better models)
(which|what) command (downloads|fetches|gets|pulls) (a model|models|weights)
how (are|is) (models|a model|weights|model files) (downloaded|obtained|fetched|verified)
(i want|i need|i would like) (a larger|a bigger|a better|a smarter|another|a stronger) model
(how|where) do i get (a larger|a bigger|a better|a smarter|another|a stronger) (model|one)
can i (download|pull|get|have) (a larger|a bigger|a better|a smarter|another) (model|one)
model download
(is there|do you have) (a larger|a bigger|a better|a smarter) model
upgrade (the model|to a larger model|nano to something bigger)
""",
    ),
    Topic(
        "models",
        "The command mcd models lists every model that somebody serves now, with context length, price and number of providers.",
        """
(what|which) models (are there|exist|are available|are offered|can i use|do you have|are supported|can i run|are served|do you offer|does the mesh have|are online)( now| in the mesh| here|)
{how} {show} (the |all |available |)(models|available models|list of models|model list)
{cmd} {shows} (the |all |available |)(models|available models|list of models|model list)
{show} (the |all |me the |me all |available |)(models|available models|list of models|model list)
what is (mcd models|the models command)( for|)
what does (mcd models|the models command) do
mcd models
(models|model list|model catalogue|list of models|available models)
{how} (find out|know|learn) (which|what) models (are|i can) (available|use|served|run)
(does|do) (the mesh|modelcloud|mcd|you) (have|support|offer|serve) {model}
is {model} (available|supported|offered|served|in the mesh|on the network)
(how many|what number of) models (are there|are available|are served|exist)
(names|list|overview) of (the |all |)(available |supported |)models
""",
    ),
    Topic(
        "peers",
        "The command mcd peers shows who is there, how near, how fast and what they serve.",
        """
{how} {show} (the |my |all |other |connected |)(peers|neighbours|other peers|other nodes|connected peers|connected machines)
{cmd} {shows} (the |my |all |other |connected |)(peers|neighbours|other peers|other nodes|connected peers|connections)
{show} (the |my |all |me the |me all |connected )(peers|neighbours|nodes|connected peers|connections)
what is (mcd peers|the peers command)( for|)
what does (mcd peers|the peers command) do
mcd peers
(peers|peer list|list of peers|my peers|connected peers)
(who|which peers|which nodes|which machines|how many peers|how many nodes|how many machines) (is|are) (online|connected|in the mesh|in the network|reachable|around|near me)( now|)
(who|what) (am i|is my daemon|is mcd) connected to
how many (peers|nodes|machines|computers|people) (are there|are connected|do i have|do i see|take part)
{how} (find out|know|see) (who|which peers|how many peers) (is|are|i am) (connected|online|connected to)
am i (connected|online|in the mesh)( to the mesh| to anyone| to any peers|)
""",
    ),
    Topic(
        "status",
        "The command mcd status shows what your daemon is doing: links to other peers, models it serves, requests asked and served, and warnings.",
        """
{how} {show} (the |my |)(status|state|health|condition)( of {mcd}| of my peer|)
{cmd} {shows} (the |my |)(status|state|health|condition)( of {mcd}| of my peer|)
{show} (me |)(the |my |)(status|state|health)( of {mcd}| of my peer|)
what is (mcd status|the status command)( for|)
what does (mcd status|the status command) do
mcd status
(status|health|state)( of {mcd}| of my peer| page|)
is (mcd|my daemon|my peer|my node|the daemon|it) (running|up|alive|ok|healthy|working|active|still running)
{how} (know|find out|check|see|tell) (if|whether|that) (mcd|my daemon|my peer|my node|it) (is|is still) (running|up|alive|ok|healthy|working|active)
what is (mcd|my daemon|my peer|my node) doing( now| right now| at the moment|)
how (is|'s) my (daemon|peer|node) doing
how many requests (are running|is my peer serving|did my peer serve|have i served)
{how} see (running requests|how many requests are running|what i earned|what i spent|my earnings)
""",
    ),
    Topic(
        "id",
        "The command mcd id prints your peer id, the hash of your public key, and your addresses. The key itself is ~/.modelcloud/peer.key; keep a copy of it.",
        """
{how} {show} (my|the|my own|this machine's) (peer id|id|identity|peer identity|public key)
{cmd} {shows} (my|the|my own) (peer id|id|identity|peer identity|public key)
{show} (me |)(my|the|my own) (peer id|id|identity|peer identity)
what is (mcd id|the id command)( for|)
what does (mcd id|the id command) do
mcd id
(what is|what's|where is) my (peer id|id|identity|peer identity|public key|key)
(peer id|my peer id|identity|my id)
what is a peer id
(who am i|what am i called|what is my name) (in the mesh|on the network|to other peers|in modelcloud)
{how} (back up|backup|save|copy|move|keep|restore) (my |the |)(key|keys|identity|peer id)
how (is|does) (my |a |the |)(peer id|identity|peer) (made|created|identified|computed|work)
(can|how do) i (have|keep|change|reset) (the same|my|a new) (peer id|identity)
""",
    ),
    Topic(
        "doctor",
        "Run mcd doctor: it checks packages, llama.cpp, key files, clock, API port and the engine's sandbox, and says what to do about each problem it finds.",
        """
{how} (diagnose|debug|troubleshoot|check|test|examine|verify|find) (a problem|problems|errors|my setup|my installation|my system|my configuration|what is wrong|issues|faults)
(which|what) command (diagnoses|checks|tests|examines|troubleshoots|finds) (problems|errors|my setup|my installation|my system|what is wrong|faults)
what is (mcd doctor|the doctor command|doctor)( for|)
what does (mcd doctor|the doctor command|doctor) do
mcd doctor
(doctor|diagnosis|diagnostics|troubleshooting|self test|health check)
(it|mcd|modelcloud|the daemon) (does not|doesn't|will not|won't) (work|start|run|respond|answer)( at all| properly| on my {pc}|)
(it|mcd|modelcloud|the daemon|everything) (is broken|crashes|crashed|fails|failed|hangs|keeps crashing|stopped working|gives an error|shows an error)
(i get|i have|i see|there is|i got) (an error|a problem|errors|problems|an error message|a crash|an issue|some trouble)( with {mcd}|)
(something|what) (is|went) wrong( with {mcd}| with my peer|)
(help|help me), (it|mcd|modelcloud) (does not work|is broken|doesn't work|fails|crashes)
(why does|why is) (mcd|it|modelcloud|the daemon) (not work|not working|fail|crash|broken|not start)
{how} (fix|repair|solve|report) (it|mcd|the error|the problem|a problem|errors|a bug)
{how} report (a bug|an issue|a problem)
(where|how) do i (report|file) (a bug|bugs|an issue|issues)
""",
    ),
    Topic(
        "chat",
        "Type mcd chat to talk to a model in the terminal, or mcd chat MODEL to choose one; mcd chat -m TEXT asks one question and ends.",
        """
{how} (chat|talk|speak|converse|have a conversation) (with|to) (a model|the model|models|an llm|{model}|modelcloud-nano)( in the terminal| from the shell| on the command line|)
{how} (chat|talk) (in|from|on) (the |my |a )(terminal|shell|command line|console)
what is (mcd chat|the chat command)( for|)
what does (mcd chat|the chat command) do
mcd chat
(chat|chat command|chat mode|terminal chat|command line chat|interactive chat|interactive mode)
is there (a chat|a chat interface|a chat client|a terminal client|a command line client|an interactive mode|a user interface|a gui|a web page)
(which|what) command (starts|opens|begins) (a chat|a conversation|an interactive session)
(start|open|begin) (a chat|a conversation|an interactive chat)( in the terminal|)
can i (chat|talk) (with|to) (a model|models|it|you|{model}) (in|from) (the |my |a )(terminal|shell|command line|console)
(ask|send) (a question|a prompt|something) (from|in) the (terminal|shell|command line)
{how} (ask|send) (a question|a prompt|something) (from|in) the (terminal|shell|command line)
""",
    ),
    Topic(
        "route",
        "Use mcd route MODEL --explain: it shows every candidate and each part of the predicted time, such as RTT, queue and speed.",
        """
{how} (see|know|find out|understand|learn|check|explain) (why|how) (a|this|that|my|the) (provider|peer|request|machine|route) was (chosen|selected|picked|routed)
why (was|did|is) (this|that|a|my|the) (provider|peer|node|request) (chosen|selected|picked|sent there|preferred)
what is (mcd route|mcd route --explain|the route command|--explain)( for|)
what does (mcd route|mcd route --explain|the route command|--explain) do
mcd route( --explain|)
(route|route command|explain the route|explain routing decision|route explain)
(which|what) command (explains|shows) (the route|a route|the routing|the routing decision|the choice of provider|which peer would be used|the candidates)
{how} {show} (the route|the candidates|the ranking|the ranked providers|the routing decision|where my request goes)
(where|to whom|to which peer) (does|did|will|would) my (request|prompt) (go|be sent|be routed)
(explain|justify) (the routing decision|the choice of provider|this route|why you chose this peer)
""",
    ),
    Topic(
        "commands",
        "The commands are mcd run, pull, show, rm, models, peers, status, id, chat, route, doctor and version. mcd --help lists them all.",
        """
(what|which) commands (are there|exist|does mcd have|can i use|do i have|are available)
{show} (me |)(all |the |the main |)(commands|subcommands|mcd commands|cli commands)
{how} {show} (all |the |)(commands|subcommands|options|flags|help)
(commands|help page|mcd --help|mcd help|command list|list of commands|usage|cli|command line)
(what|which) (options|flags|subcommands) does mcd (have|take|support)
{how} (use|operate|control|drive) (mcd|the cli|the command line)
where is the (help|manual|documentation|reference|man page)
(is there|do you have) (a manual|documentation|a command reference|a help page|docs)
(what|how) can i do with mcd
""",
    ),
    Topic(
        "stop",
        "Press Ctrl-C in the terminal where mcd runs. It finishes or hands over running requests and leaves the mesh.",
        """
{how} (stop|quit|exit|end|kill|terminate|close|halt|shut down|shutdown|turn off|switch off|leave) ({mcd}|it|my peer|the program|the process|the mesh)
(stop|quit|exit|end|kill|terminate|close|shut down|turn off|switch off) ({mcd}|my peer|the program|the process)
(stopping|quitting|shutting down|ending) ({mcd}|the program)
(which|what) (key|keys|command|shortcut) (stops|ends|quits|terminates|exits|closes) ({mcd}|it)
(how|what) do i press to (stop|quit|exit)
can i (stop|quit|exit|leave|turn it off|close it) (at any time|any time|whenever i want|safely|now)
what happens when i (stop|quit|close|kill) ({mcd}|it|my peer)
is it safe to (stop|kill|close|quit) ({mcd}|it)
{how} (restart|reload) ({mcd}|it)
{how} (leave|disconnect from|get out of) the (mesh|network)
""",
    ),
    Topic(
        "files",
        "Everything lives in ~/.modelcloud: your key and the models you pulled. Settings are flags of mcd run. Delete that folder to remove it all.",
        """
where (are|does mcd keep|does mcd store|do you store|do i find|can i find|is|does it put|does it save) (the |my |its |)(files|keys|models|configuration|config|data|settings|journal|receipts|downloaded models|model files|private key|home directory|config file|database)
(which|what) (directory|folder|path|place) (holds|contains|has|does mcd use for|stores) (the |my |its |)(files|keys|models|configuration|config|data|settings|downloads)
(where|in which directory) (do|does) (the |)(files|keys|models|configuration|data|settings) (live|go|reside|get saved)
(location|path|folder|directory) (of|for) (the |my |)(files|keys|models|configuration|config|data|settings|private key)
(home directory|home dir|data directory|config file|configuration file|config|configuration|settings)
what is (in |)(~/.modelcloud|the .modelcloud directory|the home directory|.modelcloud)( for|)
{how} (uninstall|remove|delete|wipe|purge|get rid of) ({mcd}|everything|it|all data)
(uninstall|remove|delete) ({mcd}|everything|all files|all data)
how much (disk|disk space|space|storage) (does it|does mcd|do the models|will it) (need|use|take)
{how} (configure|change settings|change the configuration|edit the config)( of mcd|)
where (do|did) (downloads|pulled models|downloaded models) (go|end up|land)
""",
    ),
    Topic(
        "update",
        "To update, run git pull in the repository and then make run again. Your keys and models in ~/.modelcloud stay.",
        """
{how} (update|upgrade|renew|refresh) ({mcd}|it|my installation|the software)( to the latest version| to a new version|)
(update|upgrade|updating|upgrading)( {mcd}| the software| my peer|)
{how} (get|install|switch to|move to) (the |a )(latest|newest|new|newer|current|next) (version|release)( of {mcd}|)
is there (a new version|an update|a newer version|an auto update)
(which|what) version is the latest
does (mcd|it|modelcloud) update (itself|automatically|on its own)
(do|will) i (lose|keep) my (keys|models|settings) (when i|if i|after an|during an) (update|upgrade)
""",
    ),
]
