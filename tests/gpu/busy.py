"""Says how fast a run prepared its samples, and how busy the card was meanwhile.

    python busy.py EVENTS LOOKS

EVENTS is the folder of a run's events; LOOKS has a line `timestamp, percent` for each look at the card, as nvidia-smi writes them in UTC.
"""

import datetime
import json
import pathlib
import sys


def main():
    events, looks = map(pathlib.Path, sys.argv[1:])
    lines = (json.loads(line) for file in events.iterdir() for line in file.read_text().splitlines())
    units = [event for event in lines if event["event"] == "unit_done" and event["segment"] == "prepare"]
    ends = [datetime.datetime.fromisoformat(unit["at"]).replace(tzinfo=None) for unit in units]
    begin = min(end - datetime.timedelta(seconds=unit["seconds"]) for unit, end in zip(units, ends))
    seconds, rows = (max(ends) - begin).total_seconds(), sum(unit["rows"] for unit in units)
    busy = []
    for line in looks.read_text().splitlines():
        at, percent = line.split(", ")
        if begin <= datetime.datetime.strptime(at, "%Y/%m/%d %H:%M:%S.%f") <= max(ends):
            busy.append(int(percent))
    print(f"{rows} samples prepared in {seconds:.1f} s: {rows / seconds:.1f}/s; card busy {sum(busy) / len(busy):.0f} % of that time ({len(busy)} looks)")


if __name__ == "__main__":
    main()
