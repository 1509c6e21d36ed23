#!/usr/bin/env python3
"""The container's entry: one PET/CT from /input to a lesion mask in /output.

    python process.py --input DIR --output DIR [--weights DIR] [--device auto] [--preview]

See l2s/challenge.py for the steps and l2s/pipeline.py for the method. Research use only.
"""

import sys

from l2s.challenge import main

if __name__ == "__main__":
    sys.exit(main())
