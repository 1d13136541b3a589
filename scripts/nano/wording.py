# ruff: noqa: E501, SIM905 - word lists read better in lines
"""How people say things: macros of the patterns, other words for the same, politeness, system prompts."""

_LINES = """
begin: start
install: set up, deploy, get running, put in place, get going, get started with
download: fetch, grab, obtain, get hold of, retrieve, load down
stop: halt, end, terminate, close, shut down, turn off, kill
start: launch, fire up, bring up, boot, begin, spin up, get going
run: execute, launch, use, start, operate
use: employ, utilise, work with, make use of, try, utilize
show: display, list, print, reveal, output
see: view, look at, inspect, observe, find out
choose: pick, select, decide on
chosen: picked, selected, taken, preferred, decided on
read: see, view, look into, peek at, inspect, spy on, get at, snoop on, access
see my: view my, read my, access my, get to know my
prompts: messages, inputs, queries, questions, chats, conversations, texts, what i write, what i ask
prompt: message, input, query, question, request text, conversation
encrypted: sealed, protected, ciphered, secured, scrambled, enciphered
encryption: cryptography, sealing, protection, cipher, crypto
secure: safe, protected, well protected
private: confidential, secret, kept private
provider: peer, remote machine, other computer, gpu owner, serving machine, host, node, other side, serving node
providers: peers, remote machines, hosts, nodes, gpu owners, serving machines
operator: owner, gpu owner, host, person running the machine, admin, machine owner
peers: nodes, machines, computers, participants, members, neighbours, other users
peer: node, machine, computer, participant
mesh: network, peer-to-peer network, swarm, p2p network
network: mesh, swarm, p2p network
request: query, call, prompt, job
requests: queries, calls, prompts, jobs
answer: reply, response, output, completion, result
answers: replies, responses, outputs, results, completions
crashes: dies, breaks down, goes down, reboots, fails, is unplugged, gets switched off, vanishes
fails: breaks, dies, goes down, drops out, crashes, disappears, gets lost
dies: crashes, goes away, breaks down, is unplugged, fails, drops off
goes offline: disconnects, disappears, is gone, loses its connection, goes to sleep
money: cash, income, dollars, some money, a bit of money, euros
earn: make, gain, get paid, collect, receive, be paid
earnings: income, revenue, profits, money earned
cost: be charged for, be priced at, run me
price: cost, charge, tariff, pricing
pay: be charged, be billed, spend money, get billed
paid: rewarded, compensated, reimbursed
free: gratis, free of charge, at no cost, without cost
fee: commission, cut, percentage, surcharge
coin: cryptocurrency, crypto token, token of its own, crypto
slow: sluggish, laggy, not fast, too slow, crawling, taking ages
faster: quicker, speedier, snappier
error: failure, problem, error message, fault
problem: issue, trouble, fault, error, difficulty
problems: issues, troubles, faults, errors, difficulties
find: locate, discover, detect, look up, spot
find each other: discover one another, meet, get to know each other, locate one another
detect: find, notice, recognise, see, spot
hardware: machine, equipment, computer hardware, kit
requirements: needs, prerequisites, minimum specs, demands
memory: ram, main memory, vram
license: licence, licensing, copyright license, legal terms
commercially: for profit, in a business, for commercial purposes, at my company
files: data, stuff, things, file
keys: secret keys, key files, private keys, credentials
directory: folder, path, location, place
folder: directory, path, location
models: llms, language models, ai models, neural networks
model: llm, language model, ai model
larger: bigger, more capable, stronger, smarter, huge
big: huge, large, giant, enormous
split: divided, spread, cut up, partitioned
several: many, multiple, a few, some, two or three
server: central machine, main computer, headquarters
central: main, master, controlling
company: firm, corporation, organisation, business
update: upgrade, refresh, renew, bring up to date
version: release, build
logged: recorded, written down, saved, stored, tracked, retained
log: record, write down, save, store, retain, track
store: keep, save, retain, remember, hold on to
stored: kept, saved, retained, archived, remembered
cancel: abort, interrupt, break off, kill
cheat: lie, deceive, defraud, trick me, fake it
verify: check, prove, confirm, make sure of
without: lacking, having no, with no
offline: without internet, without a connection, disconnected, with no network
internet: network access, online connection, web access, wifi
terminal: shell, console, command line, command prompt
client: app, program, tool, software, application
app: application, client, tool, program, software
endpoint: url, address, api address, base url, uri
url: address, endpoint, uri, link
example: sample, snippet, demo, demonstration
command: subcommand, instruction, cli command
commands: subcommands, instructions, cli commands
explain: describe, clarify, break down, outline, tell me about
describe: explain, outline, characterise, sum up
purpose: point, aim, goal, idea, use
health: condition, well-being, state
connected: linked, attached, hooked up, online
work: function, operate
works: functions, operates
need: require, want, have to have
needed: required, necessary, called for
supported: possible, available, allowed, implemented
share: offer, lend, contribute, donate, rent out, provide
gpu: graphics card, video card, graphics board, gfx card, cuda card
gpus: graphics cards, video cards, cards
port: tcp port, port number, network port
ports: tcp ports, port numbers, network ports
router: nat router, home router, fritzbox, gateway box
firewall: nat, packet filter, corporate firewall
happens: is going to happen, will happen, occurs
decide: determine, choose, figure out, settle
python: a python program, python code, a python script
made: created, built, trained, developed
made you: created you, built you, trained you, programmed you, developed you
goodbye: bye, farewell, see you
help: assist, support, aid
quickly: fast, soon, in a hurry
want to: would like to, wish to, plan to, intend to, hope to
how do i: how do you, what must i do to, how might i, how can one, how does a person, in what way do i
how does: in what way does, can you say how does
what is: what exactly is, whats, what would be, can you tell me what is
can i: could i, may i, am i able to, is it possible for me to, would i be able to
can: could, might, is it possible that
is there: do you have, does it come with, is there such a thing as
which: what
"""
SYNONYMS: dict[str, list[str]] = {
    key: [word.strip() for word in words.split(",")]
    for key, words in (line.split(": ", 1) for line in _LINES.strip().splitlines())
}

PREFACES = """I am a student.|I am new to this.|My brother told me about this.|I read the readme but did not get it.|Sorry for the dumb question.|We are a small team.
I have been trying for an hour.|I just found this project.|My colleague uses it.|I saw this on the web.|I am not a programmer.|I am writing an article.
Here is what puzzles me.|I am a bit confused.|There is one thing I do not get.|I am on my laptop right now.|I have a question.|I hope you can help.|It is my first day.
Let me ask you something.|I am at home.|I need this for work.|I thought about it for a while.|I am testing you.|My boss wants to know.|I did not find it in the docs.
I am old and slow.|Yesterday a friend asked me this.|I am in a hurry.|Not sure who to ask.|Okay, serious question.|I am curious.|I have never done this before.
Excuse my English.|Just to be sure.|I looked everywhere.|This may be obvious.|Two things.|I like this so far.|Quick one.""".replace(
    "\n", "|"
).split("|")

MACROS: dict[str, str] = {
    "mc": "(modelcloud|modelcloud|model cloud|this modelcloud thing|the modelcloud project|the modelcloud mesh)",
    "mcd": "(mcd|mcd|mcd|the daemon|the mcd daemon|modelcloud|it|the software|this software|this program|that program|the tool|the thing|the service|a node|a peer|my node)",
    "how": "(how do i|how can i|how to|how would i|how should i|what is the way to|what do i type to|how does one|i want to|i need to|i would like to"
    "|is there a way to|can i|show me how to|tell me how to|what command lets me|what is the command to|which command do i use to"
    "|what do i have to do to|is it possible to|what's the best way to|how could i|help me|let me|how do we|how do you|steps to)",
    "explain": "(explain|describe|tell me about|what do you know about|what can you tell me about|can you explain|i want to understand|define"
    "|could you describe|teach me about|i want to know about|information about|more about|what's|help me understand)",
    "cmd": "(what command|which command|what mcd command|is there a command that|is there any command which|the command that|what)",
    "show": "(show|list|see|display|print|view|look at|find|get|check|look up|output|inspect|tell me|give me|know)",
    "shows": "(shows|lists|displays|prints|tells me|gives me|reveals|outputs)",
    "pc": "(computer|machine|laptop|pc|box|server|desktop|notebook|workstation|mac|macbook|thinkpad|old desktop)",
    "gpu": "(gpu|gpu|graphics card|video card|nvidia card|amd card|gpu card|graphics processor|rtx 3090|rtx 4080|rtx 5090|geforce|radeon|nvidia gpu|graphics chip)",
    "model": "(llama|llama 3|a llama model|qwen|qwen 3|mistral|gemma|phi|deepseek|gpt-oss|a model|another model|a bigger model|a larger model|my own model|a gguf"
    "|a gguf file|mixtral|a 7b model|an 8b model|a coding model|a different model|some other model|my favourite model|granite|smollm|olmo|a language model)",
    "os": "(linux|windows|mac|macos|ubuntu|debian|fedora|arch|wsl|windows 11|a mac|freebsd|windows 10|raspberry pi os|my mac)",
    "n": "",
    "unit1": "",
    "unit2": "",
}
PREFIXES = (
    "please|hi,|hello,|hey,|quick question:|question:|can you tell me|could you tell me|tell me|i wonder|just curious,|sorry,|so|and|ok,|well,|also|now|"
    "do you know|i would like to know|i'd like to know|i was wondering|excuse me,|hey nano,|one more thing,|dear bot,|good morning,|um,|but|then|"
    "i have a question:|i'm curious,|my friend asks:|help:|let me ask:|next question:|honestly,|basically,|for a newbie:|in short,"
).split("|")
SUFFIXES = (
    "please|thanks|thank you|for me|exactly|then|now|today|in detail|in short|briefly|if possible|i wonder|for beginners|again|really|actually|pls|"
    "by the way|, i am new here|, i need it quickly|, can you help|, any idea|, do you know|, please explain|, tell me|right now|anyway|, nano|asap|properly|safely|easily|correctly|"
    ", what now|, what next|, any hints|, help|, what can i do|, how|, and then|at last|somehow|at home|at all|these days"
).split("|")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.|You are modelcloud-nano.|You answer questions about ModelCloud.|Be brief.|You are an assistant. Answer in one sentence.|"
    "Answer politely and shortly.|You are a helpful AI assistant.|Be concise and honest.|You are the assistant of mcd.|Answer the user's question.|"
    "You are a friendly assistant that helps people use ModelCloud.|Never use emojis. Keep answers short.|You are an expert."
).split("|")

FRAMES = """what about {}|tell me something about {}|i have a question about {}|anything on {}|i need info regarding {}|how is it with {}|{}, what is that
{}, how does that work|can you say something about {}|what can you tell me about {}|i want to know more about {}|any idea about {}|questions about {}
what do you know about {}|give me details on {}|{} please|explain {}|help with {}|i do not understand {}|what is the story with {}|{}|{} - how""".replace(
    "\n", "|"
).split("|")
