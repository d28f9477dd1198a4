"""Slides of a phantom cohort, drawn as a scanner would see them; see docs/phantom.md.

python examples/phantom_slides acrobat --cases 24
"""

import sys

from phantom_rendering.slides import main

if __name__ == "__main__":
    sys.exit(main())
