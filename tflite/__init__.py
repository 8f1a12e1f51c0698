"""Programs for mobile: convert a network to TFLite, evaluate a TFLite file. Run from a checkout."""
