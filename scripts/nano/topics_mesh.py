# ruff: noqa: E501 - a pattern is one line
"""What `modelcloud-nano` knows about privacy, money, routing and the mesh (pattern language: see `topics_using`)."""

from scripts.nano.topics_using import Topic

MESH = [
    Topic(
        "encryption",
        "Prompts are sealed (HPKE, with post-quantum X-Wing) from your mcd to the provider's inference process; between peers only ciphertext travels.",
        """
how (are|is|do you) (my |the |)(prompts|prompt|requests|data|messages|traffic|text|answers|communication) (encrypted|sealed|protected|secured|kept secret|kept safe|encrypt)
{how} (protect|secure|encrypt|seal) (my |the |)(prompts|requests|data|messages|traffic)
(is|are) (my |the |)(prompts|prompt|requests|data|messages|traffic|text|connection|communication|everything) (encrypted|sealed|secure|safe|secret|end to end encrypted|protected)
(what|which) (encryption|cipher|cryptography|crypto|algorithm|algorithms|security|key exchange) (is used|do you use|does mcd use|protects prompts|protects my data|is it|is there)
(encryption|sealing|end to end encryption|e2e encryption|end-to-end encryption|security|cryptography|hpke|x-wing|post quantum|tls)
{explain} (encryption|sealing|the encryption|end to end encryption|how sealing works|how encryption works|the envelope|hpke)
what (is|does|means) (sealing|sealed|the envelope|a sealed request|an envelope)( mean|)
(does|do) (mcd|modelcloud|it|you) (encrypt|use encryption|seal|protect|have end to end encryption|use tls)( prompts| my prompts| requests| my data|)
how does (sealing|encryption|end to end encryption|the encryption|security) work
how (safe|secure|private) is (it|mcd|modelcloud|my data|the mesh|this)
is it (safe|secure|private)( to use| to send secrets|)
(is|are) (it|mcd|modelcloud) (quantum safe|post quantum|resistant to quantum computers)
""",
    ),
    Topic(
        "who_reads",
        "Only your own mcd and the machine that computes see the text. Be aware: the operator of that machine can read what it serves. Everyone else sees ciphertext.",
        """
who (can|could|is able to|may|will) (read|see|look at|access|view|know) (my |the |)(prompts|prompt|messages|text|requests|questions|data|answers|conversation|chats)
(can|could|will|does|do|may) (anyone|anybody|somebody|someone|others|other people|other peers|strangers|the provider|the operator|providers|operators|a hacker|the gpu owner|the host|you|modelcloud) (read|see|spy on|access|view|look at|steal|know) (my |the |what i |)(prompts|prompt|messages|text|requests|questions|data|answers|chat|write|type|conversation)
(is|are) (my |the |)(prompts|prompt|messages|text|requests|data|conversation) (visible|readable|hidden|private|confidential|secret)( to others| to the provider| to the operator| from the operator| for others|)
(what|how much) (does|can) (the |a |an )(provider|operator|host|gpu owner|machine owner|computing machine) (see|read|know|learn|find out)( about me| of my prompt| of my data|)
(do|must|should|can) i (have to |need to |)trust (the |a |)(provider|operator|providers|operators|host|other peers|people)
(privacy|confidentiality|prompt privacy|data privacy|privacy model|threat model)
{explain} (privacy|the privacy|the threat model|the privacy model|confidentiality)
how private (is|are) (my prompts|my data|my requests|modelcloud|mcd|the mesh)
(should|can|may) i send (secrets|passwords|confidential data|private data|personal data|company data|medical data)
is (there|it) (full|real|perfect|complete) (privacy|confidentiality)
(does|is) (the |)(operator|owner|administrator|root) (of the provider |of the machine |)(able to |)(read|see) (it|my text|prompts|everything)
""",
    ),
    Topic(
        "logs",
        "mcd does not log or store prompts or answers. It keeps only counts, times and prices: request id, peer id, tokens and outcome.",
        """
(do|does|will|are) (you|mcd|modelcloud|the daemon|providers|it) (log|store|keep|save|record|collect|remember|retain|track) (my |the |any |)(prompts|prompt|messages|text|conversations|chats|answers|requests|data|history|personal data)
(are|is) (my |the |)(prompts|prompt|messages|text|conversations|chats|answers|requests|data|history) (logged|stored|kept|saved|recorded|collected|remembered|retained)( somewhere| anywhere| by mcd|)
(what|which) (data|information|things|metadata) (is|are|do you|does mcd) (logged|stored|kept|collected|collect|store|log|keep|recorded|record)
(logs|logging|log files|data retention|telemetry|tracking|history|data collection|analytics)
what is in the (logs|log|log files|journal)
(is|are) there (any |)(telemetry|tracking|logging|logs|analytics|a history|data collection)
where are (my |the |)(logs|log files|chats|conversations)( stored| saved|)
(how long|for how long) (are|do you keep|is) (my |)(data|prompts|logs|chats)( kept| stored|)
are my prompts used (for training|to train models|to train)
(does|will) (anyone|somebody|a model) (train|learn) (on|from) my (data|prompts|chats|text)
can i delete my (chats|history|logs|conversations|prompts)
""",
    ),
    Topic(
        "relays",
        "No. Relays, networks and other peers on the way see ciphertext only. But the mcd that you call reads your requests, so run your own.",
        """
(can|could|do|does|will) (a |the |)(relay|relays|bystander|bystanders|middle peers|peers in between|other peers on the way|my isp|the isp|internet provider|a network admin) (read|see|decrypt|open|learn|log) (my |the |)(prompts|prompt|traffic|data|content|messages|anything)
(what|how much) (can|do|does) (a |the |)(relay|relays|peers in between|my isp|the isp) (see|read|learn|know)
(is|are) (a |the |)(relay|relays|middlemen) (safe|trusted|dangerous|able to read)
can i use (someone else's|a remote|another person's|a friend's|a public) (mcd|entry peer|entry|gateway|daemon)
is (a |)(remote|public|shared) (entry peer|gateway|entry|mcd) (safe|private|secure|a risk)
(relay privacy|remote entry peer|remote entry|man in the middle|eavesdropping|wiretapping)
(can|could) (somebody|someone|anyone) (intercept|eavesdrop on|wiretap|sniff|listen in on) (my |the |)(traffic|prompts|network|connection|requests)
(does|is) the (wire|network|line) (carry|plain text|clear text|in the clear|readable)
""",
    ),
    Topic(
        "anonymous",
        "Not anonymous: the peers you talk to see your peer id and IP address. Sealing hides the text, not that you sent a request.",
        """
am i anonymous
(is|are) (modelcloud|mcd|the mesh|users|peers|it) anonymous
(can|do|does|will) (others|peers|providers|anyone|people|the provider) (see|know|learn|find|get) my (ip|ip address|address|identity|location|name)
(does|do) (mcd|modelcloud|you) hide my (ip|ip address|identity|location)
(anonymity|ip address|my ip|hidden identity|tor|vpn)
(is|will) my (ip|ip address|identity|location) (hidden|visible|public|exposed|shown)
(can|should) i use (tor|a vpn)( with mcd| with it|)
what metadata (is visible|can others see|leaks|do peers see)
""",
    ),
    Topic(
        "failover",
        "If a provider fails, your mcd goes to the next candidate with the same model and continues at the exact token, so you see one unbroken answer.",
        """
what (happens|if|happens to my answer|happens to my request) (if|when|in case|) (a |the |my |one )(provider|peer|node|gpu|machine|server|computer|host) (dies|fails|crashes|goes offline|disappears|breaks|leaves|disconnects|is turned off|drops out|goes down|vanishes|stops)( in the middle| mid answer| during my request| while answering| halfway|)
(a |the |my |one )(provider|peer|node|gpu|machine|host) (dies|fails|crashes|goes offline|disappears|breaks|disconnects|drops out|goes down|vanishes)( in the middle| mid answer| during my request| while answering|)
(failover|fail over|fault tolerance|redundancy|resilience|high availability|provider failure|reliability)
{explain} (failover|fault tolerance|how failover works|the failover|resilience)
how does (failover|fault tolerance|recovery) work
(is|are) (there |)(failover|a backup|redundancy|a retry|retries)( supported| built in| if a provider fails|)
(does|will|can) (my |the |an )(answer|stream|request|generation) (survive|continue|go on|be lost|be cut|break|restart|stop|resume)( if a provider fails| when a peer leaves| after a crash|)
how (reliable|robust|stable|dependable) (is|are) (it|mcd|modelcloud|the mesh|the network|providers)
do i lose my (answer|request|text|tokens) (if|when) (a provider|the gpu|the peer) (fails|dies|crashes|goes away|leaves)
(is|will) my (request|prompt|answer) (repeated|retried|sent again|resumed) (elsewhere|automatically|if it fails|on another machine)
""",
    ),
    Topic(
        "price",
        "In this version everything is free: the price is 0. Planned is payment per token, at a price that each provider sets and mcd models shows.",
        """
(how much|what) (does|do|will) (it|mcd|modelcloud|a request|a token|tokens|the api|using it|inference|an answer|using modelcloud) cost( me| to use|)
how (expensive|cheap|costly) is (it|mcd|modelcloud|a request|a token|inference|an answer)
(what is|what's|how high is|tell me) the (price|cost|pricing|charge|tariff)( of a request| per token| of tokens| of a model| for a request|)
(price|prices|pricing|cost|costs|price list|price per token|token price|how much)
(who|how) (sets|decides|determines|makes|fixes|is|are) (the |)(price|prices|pricing)( set| determined| decided| made|)
{explain} (pricing|the pricing|prices|the price|what it costs|how pricing works)
how (does|is) (pricing|billing|charging|the price) (work|done|computed|calculated)
{how} (set|choose|change|lower|raise|define) (my|the|a) (price|prices|token price)( as a provider| as an operator|)
{how} (limit|cap|control) (my |the |)(spending|costs|expenses|budget|price)
(do|must|will) i (have to |need to |)pay( for it| for tokens| to use it| anything|)
(is there|do i need) a (subscription|monthly fee|plan|free trial|free tier)
(is|are) (it|mcd|modelcloud|models|tokens|requests) (paid|cheap|expensive|billed)
""",
    ),
    Topic(
        "nano_price",
        "modelcloud-nano is free: its price is 0 per token, and it runs on your own machine.",
        """
(how much|what) does (nano|modelcloud-nano|the nano model|the small model|the embedded model|the built-in model) cost
is (nano|modelcloud-nano|the nano model|the small model|the embedded model|this chat|this conversation|the built-in model) free( of charge| to use|)
(price|cost|pricing) (of|for) (nano|modelcloud-nano|the nano model|the embedded model|the small model)
(do|must|will) i (have to |)pay (for|to use) (nano|modelcloud-nano|you|this chat|the small model|the embedded model|your answers)
are you (free|free of charge|free to use|expensive|paid)
(what|how much) do you (cost|charge)
does (nano|modelcloud-nano|asking you|chatting with you|using you) cost (anything|something|tokens|me anything)
what (can i use|is|do i get) (for free|free of charge|free)
is (anything|something|there anything) free
""",
    ),
    Topic(
        "earn",
        "Not in this version, which has no payment. The plan is that operators set a price and earn per token that they delivered.",
        """
{how} (earn|make|get) (money|something|coins|income|a profit|cash|paid)( with {mcd}| with my {gpu}| from my {gpu}| as an operator| as a provider| here|)
(can|could|will|do) i (earn|make|get|receive) (money|something|coins|income|profit|cash|paid)( with {mcd}| with my {gpu}| from my {gpu}| as an operator| for sharing| by serving|)
(how much|what) (can|could|will|do) (i|operators|providers|gpu owners) (earn|make|get|receive)( per day| per month| per token| with {mcd}|)
(earn|earning|earnings|income|profit|revenue|money for my gpu|payout|payouts|rewards)
how (are|do) (operators|providers|gpu owners|hosts|node owners) (paid|rewarded|compensated|earn|get paid|make money|get their money)
(who|when|how) (pays|do i get paid|am i paid|is paid|gets paid)( me| the operators| the provider| for my gpu|)
is (it|serving|running a node|being a provider|sharing my gpu) (profitable|worth it|paid|lucrative)
what do i (get|gain|receive) (for|from|by) (sharing|serving|offering|lending|running) (my gpu|a gpu|models|a node|tokens)
(monetise|monetize|rent out|sell|let) my (gpu|graphics card|idle gpu|compute|hardware|{pc})
why (would|should) i (share|offer|lend) my (gpu|{pc}|graphics card)
""",
    ),
    Topic(
        "payment",
        "Payment is planned, not built. The plan: your mcd counts tokens and sends signed vouchers as they arrive, and the provider redeems the last one in an ownerless contract.",
        """
how (does|do) (payment|payments|paying|settlement|vouchers|the money part|micropayments|billing) (work|function|happen)
{explain} (payment|payments|settlement|vouchers|a voucher|the payment system|how payment works|how paying works|lanes|payment rails)
what (is|are) (a |the |)(voucher|vouchers|lane|lanes|credit window|vault|payment rail|payment rails|settlement|smart contract|contract|receipt|receipts)( for| in modelcloud|)
(payment|payments|voucher|vouchers|settlement|payment rails|smart contract|receipts|blockchain|payment methods|payment options)
{how} (pay|settle|deposit|top up|fund|add money|send money)( for tokens| for requests| a provider| with crypto| my lane|)
(which|what) (currency|coin|coins|money|blockchain|chain|payment methods) (is|are|do you|does mcd|can i) (used|use|accepted|accept|supported|pay with|support)
(can|do|must) i (pay|need|have|use) (with |)(a credit card|crypto|bitcoin|ethereum|usdc|paypal|a wallet|a crypto wallet|stablecoins|euros|dollars)( to pay| for tokens| for it|)
(is|does it use|do you use|does mcd use) (there |)(a |)(blockchain|smart contract|escrow|crypto|wallet|ethereum)( involved| used|)
how (are|is) (tokens|usage|the bill|money|the provider) (counted|metered|billed|transferred|paid|settled)
who (counts|meters) (the |)(tokens|usage)
{how} (withdraw|redeem|cash out|claim) (my |the |)(money|earnings|vouchers|tokens|voucher)
""",
    ),
    Topic(
        "undelivered",
        "This version charges nothing. When payment comes, you pay only for tokens that arrived: your mcd counts them itself and risks one small credit window.",
        """
(do|must|will|would) i (have to |)(pay|be charged|be billed|lose money) (for|if|when|because of) (failed requests|a failed request|tokens that never arrive|tokens i did not get|lost tokens|missing tokens|broken answers|an error|a request fails|the provider fails|a provider crashes|the answer is cut|nothing arrives|errors|undelivered tokens|an incomplete answer)
what do i pay (if|when) (a request fails|the provider fails|the answer is cut|nothing arrives|the connection breaks)
(can|could) (a |the |)(provider|operator) (cheat me|overcharge me|overcharge|bill too much|charge for nothing|lie about tokens|take my money|steal my money|steal my deposit|run away with my money|scam me)
(refund|refunds|money back|chargeback|overcharging|undelivered tokens|failed request cost)
(do|can) i get (a refund|my money back|money back|refunds)
what (is|'s) (my|the) (risk|maximum loss|most i can lose|financial risk)( when i pay| as a payer|)
how much (can|could) i lose
(is|are) (failed requests|errors|lost tokens|broken answers) (free|charged|billed|paid)
""",
    ),
    Topic(
        "fee",
        "No: ModelCloud takes no fee and has no coin of its own.",
        """
(is there|does modelcloud have|do you have|does the project have|is this) (a |an |)(coin|token sale|ico|own coin|own token|cryptocurrency|modelcloud coin|modelcloud token|native token|crypto token)
(does|do) (modelcloud|you|the project|mcd|the developers) (take|charge|keep|get|demand|collect) (a |any |)(fee|fees|cut|commission|percentage|share|margin)
(what|how high|how much) (is|are) (the |your |)(fee|fees|commission|platform fee|cut|transaction fee)
(fee|fees|commission|platform fee|coin|cryptocurrency|native token|own token)
{how} (buy|get|sell|trade|mine) (the |)(modelcloud|mcd) (coin|token|tokens|coins)
(is|are) there (any |)(fees|hidden costs|commission|middlemen|a middleman|platform fees)
who (profits|takes the profit|earns from it|gets the fees|makes money from this)
how does (modelcloud|the project) (make money|earn money|finance itself|profit)
""",
    ),
    Topic(
        "routing",
        "Your mcd predicts when each provider would finish, from measured RTT, queue and speed, and asks the soonest first. Who failed it before comes later.",
        """
how (does|do|is) (routing|the router|routes|request routing|load balancing|the scheduler) (work|done|function|decide|choose)
how (does|do) (mcd|it|modelcloud|you|the router|my peer) (choose|select|pick|decide on|find|route to|rank) (a |the |my |which |)(provider|providers|peer|peers|node|gpu|best provider|best peer|request|requests)( to use|)
how (is|are) (a |the |my |)(provider|providers|peer|request|requests|prompt) (chosen|selected|picked|routed|ranked|distributed|assigned|balanced)
{explain} (routing|the routing|the router|how routing works|load balancing|intelligent routing)
(routing|router|load balancing|intelligent routing|provider selection|request routing|smart routing)
(which|what) (provider|peer|gpu|machine) (answers|serves|will answer|computes|handles|gets) (me|my request|my requests|my prompt)
(what|which) (numbers|metrics|criteria|factors|measurements) (does the router use|does routing use|decide the route|matter for routing|count)
(does|do) (the router|mcd|it|routing) (prefer|consider|look at|use|take into account|measure) (the |)(nearest|cheapest|fastest|latency|price|distance|load|speed|queue)( peer| provider|)
(can|how do) i (choose|pick|prefer|pin|force) (the |a |my |)(provider|peer|particular provider|certain peer)
""",
    ),
    Topic(
        "discovery",
        "Peers find each other through a DHT, gossip and the local network; each publishes a signed record with its models and prices. There is no central list.",
        """
how (do|does|are) (peers|nodes|providers|machines|mcd|my peer|other peers) (find|discover|discovered|found|meet|locate|learn about|know)( each other| one another| peers| other peers| providers|)( in the mesh|)
how does (discovery|peer discovery|gossip|the dht|joining the mesh|joining|bootstrapping|bootstrap) work
{explain} (discovery|peer discovery|gossip|the dht|the directory|bootstrap|records|provider records)
what (is|are) (the |a |)(dht|gossip|gossipsub|directory|bootstrap peer|bootstrap peers|record|provider record|mesh)
(discovery|peer discovery|dht|gossip|bootstrap|directory|provider record|mdns|lan discovery)
{how} (join|enter|connect to|get into|become part of) (the |a )(mesh|network|p2p network|peer-to-peer network)
(does|can|will) (mcd|it|my peer) (find|see|discover) (peers|machines|computers) (on|in) (my |the |)(lan|local network|home network|wifi|office network)
where (is|does) the (list of peers|list of providers|directory|peer list) (come from|stored|kept)
how do (peers|providers) (announce|publish|advertise) (themselves|their models|models|prices)
what (protocol|network|network stack|library) (do|does) (peers|mcd|the mesh|it) (use|speak|run on|talk)( to talk to each other| between peers|)
(libp2p|does it use libp2p|what is libp2p|is it built on libp2p|peer-to-peer protocol|p2p)
""",
    ),
    Topic(
        "nat",
        "Behind NAT or a firewall you can use the mesh at once. To be reached from outside, forward TCP port 4101; hole punching and relays are planned.",
        """
(does|will|can) (it|mcd|modelcloud|my peer) (work|run|be reached|serve|connect) (behind|with|through|despite) (a |my |)(nat|firewall|router|home router|cgnat|carrier nat|company network)
(do|must|should) i (need to |have to |)(open|forward|configure|set up) (a |any |)(port|ports|port forwarding|firewall|router)( on my router| in my firewall|)
(nat|hole punching|nat traversal|port forwarding|firewall|cgnat|relay|relays|upnp)
what (is|are|does) (a |the |)(relay|relays|hole punching|nat traversal)( do| for| good for|)
{explain} (relays|a relay|hole punching|nat traversal|how nat works here)
(i am|i'm|my {pc} is|my peer is) behind (a |)(nat|firewall|router|cgnat|company firewall)
(can|could) (others|peers|people) (reach|connect to|dial) (me|my peer|my {pc}) (behind|through) (a |my |)(nat|firewall|router)
(do|must) i (need|have) a (public ip|static ip|public address|fixed ip|domain)
{how} (make|get) my (peer|node|{pc}) (reachable|public|accessible)( from outside| behind nat|)
""",
    ),
    Topic(
        "hardware",
        "Any Linux computer with Python 3.11 will do for mcd and nano. To serve a larger model, memory or GPU memory must hold its file and context: see mcd show MODEL.",
        """
(what|which) (hardware|computer|machine|pc|requirements|specs|system|cpu|minimum hardware) (do i need|is needed|is required|are needed|are the requirements|does it need|does mcd need|should i have|is enough|is recommended)
(what are the|tell me the) (hardware |system |minimum |)(requirements|specs|specifications)( of {mcd}| for {mcd}|)
(hardware|hardware requirements|system requirements|requirements|minimum requirements|recommended hardware|specs)
how much (memory|ram|vram|gpu memory|video memory|power|electricity) (do i need|does it need|is needed|does mcd use|does it take|should i have|is required)
(is|are) (my {pc}|8 gb|16 gb|4 gb|a raspberry pi|an old pc|a laptop|24 gb of vram|8 gb of vram) (enough|sufficient|good enough|ok|powerful enough)( for {mcd}| for this|)
(can|will|does) (it|mcd|modelcloud) (run|work) on (a raspberry pi|an old pc|a laptop|my {pc}|a phone|a small server|a vps|a nas|arm)
(what|which|how big a|how large a) (model|models) (fits|fit|can i run|can my gpu run|suits) (on|in|with|) (my gpu|8 gb|24 gb|my {pc}|my hardware|a 3090)
(which|what) (gpu|graphics card|card) (should i buy|is best|do you recommend|is recommended|is good|do i need)( for {mcd}| for this|)
(minimum|recommended) (ram|memory|vram|gpu|cpu)
""",
    ),
    Topic(
        "gpus",
        "mcd computes with llama.cpp, so NVIDIA (CUDA), AMD (ROCm), Apple (Metal) and Vulkan cards work if llama-cpp-python is built for them.",
        """
(which|what) (gpus|graphics cards|cards|gpu brands|accelerators|gpu types|video cards) (are supported|work|can i use|does mcd support|are compatible|do you support)
(does|do|will|can) (it|mcd|modelcloud|you) (support|work with|run on|use|work on) (amd|nvidia|apple|intel|apple silicon|m1|m2|m3|radeon|rocm|cuda|metal|vulkan|intel arc|an amd gpu|an nvidia gpu|an intel gpu)( gpus| cards|)
(is|are) (amd|nvidia|apple|intel|apple silicon|radeon|rocm|cuda|metal|vulkan|intel arc|my amd gpu|the m1)( gpus| cards|) (supported|compatible|usable|possible|working)
(supported gpus|amd|nvidia|cuda|rocm|metal|vulkan|apple silicon|gpu compatibility|radeon|intel arc)( support|)
(can i|how do i) use (an amd|a radeon|an intel|an apple|an m1|an m2|an nvidia) (gpu|card|chip)
(build|compile) (llama-cpp-python|llama.cpp|it) (for|with) (cuda|rocm|metal|vulkan)
{how} (build|compile|install) (llama-cpp-python|llama.cpp|it) (for|with) (cuda|rocm|metal|vulkan)( support|)
""",
    ),
    Topic(
        "os",
        "mcd is a Python program made for Linux, such as Debian or Ubuntu. On macOS the engine is less isolated; on Windows try WSL2.",
        """
(which|what) (operating systems|operating system|os|platforms|systems) (are supported|does it run on|does mcd support|do i need|can i use|is supported|do you support|is needed)
(does|do|will|can) (it|mcd|modelcloud) (run|work|install) on {os}
is {os} (supported|ok|possible|compatible)
(operating systems|supported platforms|platforms|linux|windows|macos|ubuntu|wsl)( support|)
is there a (windows|mac|linux|macos) (version|build|release|port)
(what|which) (programming |)language is (mcd|it|modelcloud|the daemon) (written|programmed|implemented|made) in
(is|was) (mcd|it|modelcloud) (written|programmed|made) in (python|rust|go|c++)
(which|what) python( version|) (do i need|is needed|is required|does it need)
i (use|have|am on|run) {os}(|, does it work|, can i use mcd)
""",
    ),
    Topic(
        "ports",
        "Two TCP ports: the HTTP API listens on 127.0.0.1:8080, only for your own machine, and peers talk to each other on port 4101.",
        """
(which|what) (port|ports|tcp port|network ports) (does mcd use|does it use|is used|are used|do i need|does it listen on|are open|must be open|should be open|does the mesh use|is the api on|does the gateway use|do you use|are needed)
(on |)(which|what) port (does|is) (mcd|it|the api|the gateway|the daemon)( listen| listening| run| on|)( on|)
(ports|port|port number|listen port|default port|port numbers|network ports|tcp port)
(is|does) (it|mcd|the api) (use|on|listen on) port (8080|80|443|8000|11434)
(does|do) (it|mcd|the api|the gateway) (listen|accept connections) (on|from) (all interfaces|localhost|the network|outside|other machines|the internet)
(is|can) the (api|gateway) (reachable|be reached|accessible|exposed) (from|to) (other machines|the network|outside|the internet|my lan)
why 8080
{explain} the (ports|port numbers)( used|)
""",
    ),
    Topic(
        "license",
        "ModelCloud is open source under the Apache License 2.0, this model included. You may use it commercially.",
        """
(what|which) (license|licence|software license) (is it|does it have|is used|does mcd have|is mcd under|is modelcloud under|do you use|covers mcd|is this|is the code under)
(what|what's) is the (license|licence)( of {mcd}| of the code| of this model| of nano|)
(license|licence|licensing|copyright|open source|apache|legal terms|terms of use)
(is|are) (it|mcd|modelcloud|the code|the source|nano|this model) (open source|free software|under apache|proprietary|closed source|open|copyrighted)
(can|may|am i allowed to|is it allowed to) (i|we|) (use|modify|sell|fork|redistribute|copy|change|ship|embed) (it|mcd|modelcloud|the code|nano)( commercially| in my company| at work| in my product| for business|)
(where|how) (is|can i|do i) (the |)(see |find |get |read |)(source code|source|repository|code)( of mcd|)
is commercial use (allowed|ok|permitted|possible)
{how} (contribute|help|take part in development|send a patch|participate)( to the project| to {mc}|)
who (wrote|made|develops|owns|maintains|is behind|created|built) (mcd|modelcloud|it|this project|the project|this software)
""",
    ),
    Topic(
        "offline",
        "Yes: modelcloud-nano is part of the package, so mcd run --cpu answers offline. Larger models need a download once, the mesh needs a network.",
        """
(does|do|will|can) (it|mcd|modelcloud|nano|you|this) (work|run|answer|function|be used) (offline|without internet|without a network|without a connection|without network access|in airplane mode|when i am offline)
(do|must) i (need|have|be) (an |)(internet|internet connection|internet access|network|online|a connection)( to use it| for nano| all the time|)
(offline|offline use|offline mode|without internet|no internet|air gapped|airplane mode|no network)
is (internet|an internet connection|a network|the internet) (needed|required|necessary)
(what|which) (works|can i do|model works) (offline|without internet|without a network)
can i use (it|mcd|nano|you) (offline|without internet|in a plane|in a tunnel|on a train)
(are you|is nano|is this|does nano run|do you run) (online|local|locally|offline|on my machine|in the cloud|on my {pc})
(my internet|the network|my wifi|the connection) is (down|off|gone|broken)(|, does it still work|, can i use mcd)
""",
    ),
    Topic(
        "sharding",
        "No, one model is not split over strangers' machines: whole requests are routed to one provider, because splitting over the internet is too slow.",
        """
(can|could|is|are|does|will) (a |one |the |big |large |)(model|models|mcd|modelcloud|it) (be split|be sharded|be distributed|split|shard|spread|distributed|sharded|divide|run)( a model| models| layers|) (over|across|between|among|on) (several|many|multiple|different|more|two) (gpus|peers|machines|computers|nodes|providers)
(sharding|model sharding|pipeline parallelism|tensor parallelism|split model|distributed inference|layer splitting|model parallelism)
{how} (split|shard|distribute|spread|divide) (a |one |the |)(model|models|large model|layers)( over several machines| across peers| between gpus|)
(do|can) (several|many|multiple|two) (gpus|peers|machines|providers) (work together|compute together|share|cooperate|serve) (on |)(one model|one request|the same model|a model|one answer)
(is|does) (this|it|modelcloud) (like|do the same as|similar to) petals
(combine|join|pool|merge) (two|several|many|my) (gpus|machines|computers)( for one model|)
(can|how do) i (combine|pool|use) (two|several|all my) (gpus|machines|computers)
""",
    ),
    Topic(
        "engine",
        "The engine is llama.cpp, through llama-cpp-python, in its own sandboxed process with continuous batching. Models are GGUF files.",
        """
(what|which) (engine|inference engine|runtime|backend|library|inference library|software) (is used|does mcd use|do you use|runs the models|computes|runs models|is underneath|does the inference|is behind it)
(do|does) (you|mcd|it|modelcloud) use (llama.cpp|llama cpp|vllm|ollama|pytorch|transformers|tensorrt|llama-cpp-python)
(engine|inference engine|llama.cpp|llama cpp|gguf|gguf files|model format|continuous batching|batching|quantisation|quantization|vllm|ollama)
what (is|are) (the engine|llama.cpp|gguf|a gguf file|gguf files|continuous batching|quantisation|quantization|a slot)
(which|what) (model |file |)(format|formats|file type|file types|quantisation|quantizations) (is|are|does mcd|do you) (supported|used|support|use|needed|accept|accepted)
(how|where) (are|is) (models|a model|inference|the model) (run|executed|computed|done|loaded)
(how many|can it handle several|can it serve many) (requests|users|parallel requests|concurrent requests)( at once| at the same time| can it serve|)
{explain} (the engine|llama.cpp|gguf|continuous batching|the inference process)
what is the context (length|size|window)( of nano| of you|)
""",
    ),
    Topic(
        "central",
        "No, there is no central server: every participant runs the same mcd, and nobody owns or controls the mesh.",
        """
(is there|does it have|does modelcloud have|is it run by|do you have) (a |any |)(central server|central servers|server|main server|company|data center|datacenter|coordinator|cloud|master|single point of failure|headquarters|tracker)
(where|in which country) (are|is) (the |your |)(servers|server|datacenter|data center|cloud)( located| hosted|)
(who|which company) (runs|operates|controls|owns|hosts|manages|governs) (modelcloud|the mesh|the network|the servers|the server|it|this network|this)
(is|are) (it|modelcloud|mcd|the mesh|the network|this) (decentralised|decentralized|centralised|centralized|distributed|peer to peer|peer-to-peer)
(central server|decentralised|decentralized|servers|decentralisation|no server|single point of failure)
(can|could) (somebody|anyone|a government|someone|the company|you) (shut it down|shut down the mesh|censor it|switch it off|block me|ban me|turn off modelcloud)
what (happens|if) (when|if|) (modelcloud|the company|the project|the developers|the bootstrap peer) (disappears|dies|goes away|stops|closes|goes bankrupt)
how is (it|modelcloud|this) different from (openai|a cloud|chatgpt|ollama|a hosted service|aws|petals|openrouter)
(difference|compare|comparison)( between| with| of|) (modelcloud and |)(openai|a cloud|chatgpt|ollama|hosted services|openrouter)
""",
    ),
    Topic(
        "verify",
        "Each request names the model file's SHA-256 digest and each answer carries a signed receipt. Audits that detect another model or quant are planned, not built.",
        """
how (do|can|does|will) (i|you|mcd|modelcloud|we|one) (know|verify|check|be sure|make sure|ensure|prove|trust) (that |)(the |a |)(provider|answer|model|right model|real model|peer)( runs the right model| is genuine| is correct| is honest| was used| is the right one|)
(can|could|does|will) (a |the |)(provider|operator|peer|node) (cheat|lie|fake|swap the model|use a smaller model|use another model|send garbage|send fake answers|run a different model|serve a worse model)
(verification|audit|audits|model digest|cheating|fraud|proof of inference|fake answers|dishonest providers|signed receipts)
{explain} (verification|audits|the audit|how cheating is detected|model digests|model identity)
what (prevents|keeps|hinders) (a provider|providers|operators|them|peers) (from|of) (cheating|lying|faking answers|swapping models|using another model)
(how|is) (cheating|fraud|a fake model|another quantisation) (detected|noticed|prevented|punished|possible)
(is|are) (answers|the answers|models|providers) (verified|checked|audited|authentic|trustworthy)
what (happens|if) (when|if|) (a |the |)provider (cheats|lies|is malicious|sends garbage|is dishonest)
""",
    ),
]
