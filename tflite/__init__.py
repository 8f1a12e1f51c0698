"""Programs for mobile: convert, quantize, evaluate, benchmark and compare TFLite files. Run them from a checkout."""

import training  # noqa: F401 - keeps TensorFlow's greeting off the screen
