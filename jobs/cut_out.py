"""Keep ``python -m jobs.cut_out`` working: it is ``matteline run``."""

import sys

from jobs.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
