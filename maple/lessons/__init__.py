"""PEFT from the inside, in eight scripts: cells of prose, maths and the project's own functions, run from its folder.

    python maple/lessons/1_lora.py        or open it in an editor that knows `# %%` cells, and run it cell by cell

Each ends in one picture, in runs/lessons/, and in assertions that fail where it no longer tells the truth.
"""
