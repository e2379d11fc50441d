"""What files of weights may hold, by name."""

import ml_dtypes
import numpy as np

# "same" is that of the folder that training started from, tensor by tensor; else the parameters'.
SAME = "same"
# What models are computed and kept in.
COMPUTED = ("float32", "bfloat16")
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
