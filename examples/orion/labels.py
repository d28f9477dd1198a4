"""Write the label table of the Orion cohort: one row for each slide that has a bag.

`samples.csv` has a row for each patient (C01), the bags are of slides (CRC01), and CRC33 has two.

    python examples/orion/labels.py DATA/samples.csv DATA/bags labels.csv
"""

import sys
from pathlib import Path

import pandas as pd

samples, bags, out = map(Path, sys.argv[1:])
columns = ["Grade", "MMRIHC", "PFSDays", "PFSCensor", "mean_Ki67p", "mean_CD3ep", "mean_CD45p"]
table = pd.read_csv(samples, dtype=str, keep_default_na=False)
slides = pd.DataFrame({"slide_id": sorted(path.stem for path in bags.glob("*.npz"))})
slides["case_id"] = slides["slide_id"].str.extract(r"CRC(\d+)", expand=False).radd("C")
slides = slides.merge(table, left_on="case_id", right_on="slideName", validate="many_to_one")
slides[["slide_id", "case_id", *columns]].to_csv(out, index=False)
