"""Asks a GGUF the questions of dev.json, greedily, and prints wrong answers: `python -m scripts.nano.score FILE`."""

import json
import sys
from pathlib import Path

import llama_cpp

from scripts.nano import corpus, offtopic


def main() -> None:
    """Run it."""
    model = llama_cpp.Llama(sys.argv[1], n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    items = json.loads((Path(__file__).parent / "dev.json").read_text(encoding="utf-8"))
    keys = {topic.answer: topic.key for topic in corpus.TOPICS} | {offtopic.DECLINE: "off"}
    n_right = 0
    for item in items:
        messages = [{"role": "user", "content": item["question"]}]
        reply = model.create_chat_completion(messages, temperature=0.0, max_tokens=120)
        answer = reply["choices"][0]["message"]["content"]
        if keys.get(answer) == item["topic"]:
            n_right += 1
        else:
            print(f"{item['topic']:12} {item['question']!r} -> {keys.get(answer, answer)}")
    print(f"{n_right} of {len(items)}")


if __name__ == "__main__":
    main()
