import json

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from zsg_jax.data.formats.tfds.layout import Split, features, info, shard_name


@pytest.fixture(scope="session")
def write_dataset():
    """Writes a data set of TFDS by its splits, of each the records of every shard."""

    def write(folder, splits, changed=()):
        folder.mkdir(parents=True)
        name = folder.parent.name
        for split, shards in splits.items():
            for number, records in enumerate(shards):
                path = folder / shard_name(name, split, number, len(shards))
                writer = ArrayRecordWriter(str(path), "group_size:1")
                for record in records:
                    writer.write(record)
                writer.close()
        lengths = [Split(split, tuple(map(len, shards)), 0) for split, shards in splits.items()]
        facts = info(name, "1.0.0", lengths) | dict(changed)
        (folder / "dataset_info.json").write_text(json.dumps(facts))
        (folder / "features.json").write_text(json.dumps(features()))
        return folder

    return write
