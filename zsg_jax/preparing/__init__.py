"""Sources written as a versioned data set of TFDS: sharded, resumed after a kill, checked."""
