"""Reading the real data that the metrics are tested on."""

import json


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
