"""Instruction records -> prompts with supervised answers -> tokens -> packed micro-batches.

sources.py    --data and --languages: whose records
published.py  the sets on the hub: repository, commit, file and format
records.py    {instruction, input, output} from jsonl, with the line of each
prompts.py    Alpaca, Bactrian-X and chat templates
tokens.py     what is supervised, what is cut, and the cache of it
mixture.py    how many records of each language an epoch holds, and in what order
packing.py    several samples to a row, none seeing another
"""
