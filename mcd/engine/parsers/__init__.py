"""What a model's text means: thoughts, answer and tool calls, read as it comes.   Pure.

    families    every way of writing thoughts and calls we know, and which of them a chat template uses
    syntax      what a way of writing is made of: marks, and where names and arguments stand
    message     one choice's text through its family
    harmony     gpt-oss, whose whole output is messages in channels
    calls       the shapes of calls: json_calls, and named_calls with JSON, tags or Gemma's notation behind a name
    call_stream the calls of one choice, as pieces: ids, names, fragments
    cursor      the text not yet taken, and the steps all of them are made of
    kinds       what a tool's schema says of a parameter that was written without quotes

A reader is a generator that yields when it needs more text, so each format reads top to bottom like the text it
describes. All of them are functions of the text alone, however it is cut: that is what makes a resumed stream equal
the unbroken one. What is no markup in the end is shown as text; what is markup is never shown.
"""
