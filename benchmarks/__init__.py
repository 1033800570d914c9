"""Programs that measure: speed, cost and faults. Run from the repository; no part of the library."""
