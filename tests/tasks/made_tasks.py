"""Small copies of the 22 image tasks' data, byte for byte in the layout of what their pages offer, unpacked."""

import csv
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "white", "black", "orange", "gray")


def picture(path: Path, number: int, *, mode: str = "RGB", side: int = 16) -> None:
    """A file of one colour, by number, with a dot that tells the file."""
    image = Image.new("RGB", (side, side + 2), COLOURS[number % len(COLOURS)])
    dot = sum(path.as_posix().encode()) % side
    image.putpixel((dot, dot), (9, 9, 9))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path)


def pictures(folder: Path, names: Iterable[str], number: int) -> None:
    """Files of one class."""
    for name in names:
        picture(folder / name, number)


def lines(path: Path, told: Sequence[str]) -> None:
    """A list, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in told))


def food101(root: Path) -> None:
    for split, few in (("train", range(5)), ("test", range(5, 7))):
        listed = {name: [f"{name}/{1000 + n}" for n in few] for name in ("apple_pie", "baklava", "sushi")}
        (root / "food-101/meta").mkdir(parents=True, exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))
        for number, paths in enumerate(listed.values()):
            pictures(root / "food-101/images", (f"{path}.jpg" for path in paths), number)


def python2_pickle(fields: dict[str, object]) -> bytes:
    """A dict of strings, lists and one array of bytes as Python 2 pickled it with numpy 1, protocol 2."""

    def told(value: object) -> bytes:
        match value:
            case str():
                return b"U" + bytes([len(value)]) + value.encode()
            case int():
                return b"K" + bytes([value])
            case list():
                return b"](" + b"".join(told(one) for one in value) + b"e"
            case np.ndarray():
                kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                shape = b"".join(b"M" + struct.pack("<H", size) for size in value.shape) + b"\x86"
                data = b"T" + struct.pack("<I", value.size) + value.tobytes()
                empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
                return empty + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"
        raise TypeError(type(value))

    return b"\x80\x02}(" + b"".join(told(key) + told(value) for key, value in fields.items()) + b"u."


def bright(labels: Sequence[int], *shape: int) -> np.ndarray:
    """Noise, the brighter the higher the label: (N, ...) uint8."""
    noise = np.random.default_rng(len(labels)).integers(0, 20, (len(labels), *shape))
    return (noise + 200 // max(labels) * np.array(labels).reshape(-1, *(1 for _ in shape))).astype(np.uint8)


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        told = {
            "batch_label": name,
            "labels": [0, 1, 2, 3],
            "data": bright([0, 1, 2, 3], 3072),
            "filenames": ["a.png"] * 4,
        }
        (folder / name).write_bytes(python2_pickle(told))
    names = ["airplane", "automobile", "bird", "cat"]
    (folder / "batches.meta").write_bytes(
        python2_pickle({"num_cases_per_batch": 4, "label_names": names, "num_vis": 48})
    )


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, num in (("train", 12), ("test", 6)):
        labels = [n % 3 for n in range(num)]
        told = {"fine_labels": labels, "coarse_labels": [0] * num, "data": bright(labels, 3072), "batch_label": split}
        (folder / split).write_bytes(python2_pickle(told))
    told = {"fine_label_names": ["apple", "aquarium_fish", "baby"], "coarse_label_names": ["fruit"]}
    (folder / "meta").write_bytes(python2_pickle(told))


def cars(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "stanford_cars"
    fields = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    (folder / "devkit").mkdir(parents=True)
    for split, num, path in (
        ("train", 8, "devkit/cars_train_annos.mat"),
        ("test", 4, "cars_test_annos_withlabels.mat"),
    ):
        rows = [(1, 1, 9, 9, 1 + n % 2, f"{n + 1:05d}.jpg") for n in range(num)]
        savemat(folder / path, {"annotations": np.array(rows, dtype=fields)[None]})
        for row in rows:
            picture(folder / f"cars_{split}" / row[5], row[4])
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names[None]})


def aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    variants = ["707-320", "A340-300", "DHC-8-100"]
    lines(folder / "variants.txt", variants)
    for split, start, num in (("train", 0, 9), ("val", 100, 3), ("test", 200, 6)):
        told = [(f"{start + n:07d}", n % 3) for n in range(num)]
        lines(folder / f"images_variant_{split}.txt", [f"{name} {variants[number]}" for name, number in told])
        for name, number in told:
            picture(folder / "images" / f"{name}.jpg", number)


def dtd(root: Path) -> None:
    folder = root / "dtd/dtd"
    for split, num in (("train", 3), ("val", 1), ("test", 2)):
        told = [(name, f"{name}/{name}_{split}{n:04d}.jpg") for name in ("banded", "zigzagged") for n in range(num)]
        lines(folder / f"labels/{split}1.txt", [path for _, path in told])
        for name, path in told:
            picture(folder / "images" / path, len(name))


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    breeds = [("Abyssinian", 1, 1), ("american_bulldog", 2, 2), ("Bengal", 3, 1)]
    for split, few in (("trainval", range(1, 6)), ("test", range(6, 8))):
        told = [(f"{breed}_{n}", number, species) for breed, number, species in breeds for n in few]
        lines(folder / f"annotations/{split}.txt", [f"{name} {number} {species} 1" for name, number, species in told])
        for name, number, _ in told:
            picture(folder / "images" / f"{name}.jpg", number)


def caltech101(root: Path) -> None:
    folder = root / "caltech101/101_ObjectCategories"
    for number, (name, num) in enumerate({"BACKGROUND_Google": 33, "Faces_easy": 31, "yin_yang": 33}.items()):
        for at in range(1, num + 1):
            picture(folder / name / f"image_{at:04d}.jpg", number, mode="L" if at % 2 else "RGB", side=8)
    (folder / "BACKGROUND_Google/tmp").write_text("no picture, as in the archive")


def flowers102(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    labels = np.array([77 if n % 2 else 1 for n in range(16)], np.uint8)
    for number, label in enumerate(labels.tolist(), 1):
        picture(folder / f"jpg/image_{number:05d}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    parts = {"trnid": [[3, 4, 15, 16]], "valid": [[1, 2]], "tstid": [[5, 6, 7, 8, 9]]}
    savemat(folder / "setid.mat", {name: np.array(numbers, np.uint16) for name, numbers in parts.items()})


def mnist(root: Path) -> None:
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for part, num in (("train", 20), ("t10k", 7)):
        pixels = bright([n % 3 for n in range(num)], 28, 28)
        head = struct.pack(">IIII", 2051, num, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = bytes(n % 3 for n in range(num))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, num) + labels)


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split, num in (("train", 14), ("test", 5)):
        bright([n % 2 for n in range(num)], 3, 96, 96).tofile(folder / f"{split}_X.bin")
        np.array([1 + n % 2 for n in range(num)], np.uint8).tofile(folder / f"{split}_y.bin")
    lines(folder / "class_names.txt", ["airplane", "bird"])
    lines(folder / "fold_indices.txt", ["13 0 1 4 5 6 7 8 9 10 ", "2 3 4 5 6 7 8 9 11 12 "])


def eurosat(root: Path) -> None:
    for number, name in enumerate(("AnnualCrop", "SeaLake")):
        pictures(root / "eurosat/2750" / name, (f"{name}_{n}.jpg" for n in range(1, 13 + number)), number)


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb/GTSRB"
    for number in (0, 14):
        for track in range(3):
            for frame in range(2):
                picture(folder / f"Training/{number:05d}/{track:05d}_{frame:05d}.ppm", number)
        lines(folder / f"Training/{number:05d}/GT-{number:05d}.csv", ["Filename;Width;Height"])
    told = [(f"{n:05d}.ppm", (0, 14)[n % 2]) for n in range(4)]
    with (root / "gtsrb/GT-final_test.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"])
        table.writerows([name, 16, 18, 1, 1, 9, 9, number] for name, number in told)
    for name, number in told:
        picture(folder / "Final_Test/Images" / name, number)


KITTI_DRIVES, KITTI_IMAGES = 12, 36


def kitti(root: Path) -> None:
    raw = root / "Kitti/raw"
    told = [f"2011_09_{26 + n % 3} 2011_09_{26 + n % 3}_drive_{n % KITTI_DRIVES:04d}_sync {n:010d}" for n in range(40)]
    lines(raw / "mapping/train_mapping.txt", told)
    order = np.random.default_rng(5).permutation(40)[:KITTI_IMAGES] + 1
    (raw / "mapping/train_rand.txt").write_text(",".join(map(str, order.tolist())))
    (raw / "training/label_2").mkdir(parents=True)
    rest = "0.00 0 -1.5 599.4 156.4 629.7 189.2 2.85 2.63 12.3 0.47 1.49"
    for number in range(KITTI_IMAGES):
        picture(raw / f"training/image_2/{number:06d}.png", number % 4)
        rows = [f"Cyclist {rest} 1.00 -1.56", f"Car {rest} {(5.0, 14.5, 60.0, 3.0)[number % 4]:.2f} -1.56"]
        rows = rows[:1] if number % 4 == 3 else rows
        lines(raw / f"training/label_2/{number:06d}.txt", [*rows, f"DontCare -1 -1 {rest} -1000 -10"])


def pcam(root: Path) -> None:
    import h5py

    (root / "pcam").mkdir(parents=True)
    for split, num in (("train", 8), ("valid", 4), ("test", 4)):
        stem = root / f"pcam/camelyonpatch_level_2_split_{split}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = bright([n % 2 for n in range(num)], 96, 96, 3)
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = np.array([n % 2 for n in range(num)], np.uint8).reshape(num, 1, 1, 1)


def ucf101(root: Path) -> None:
    folder = root / "ucf101"
    kinds = ["ApplyEyeMakeup", "YoYo"]
    lines(folder / "ucfTrainTestlist/classInd.txt", [f"{n} {kind}" for n, kind in enumerate(kinds, 1)])
    clips = {
        split: [(kind, f"v_{kind}_g{group:02d}_c{clip:02d}") for kind in kinds for group in groups for clip in (1, 2)]
        for split, groups in (("train", (8, 9, 10)), ("test", (1,)))
    }
    told = [f"{kind}/{clip}.avi {kinds.index(kind) + 1}" for kind, clip in clips["train"]]
    lines(folder / "ucfTrainTestlist/trainlist01.txt", told)
    lines(folder / "ucfTrainTestlist/testlist01.txt", [f"{kind}/{clip}.avi" for kind, clip in clips["test"]])
    for kind, clip in clips["train"] + clips["test"]:
        picture(folder / f"frames/{kind}/{clip}.jpg", kinds.index(kind))


def clevr(root: Path) -> None:
    folder = root / "clevr/CLEVR_v1.0"
    for split, num in (("train", 10), ("val", 4)):
        scenes = []
        for n in range(num):
            name = f"CLEVR_{split}_{n:06d}.png"
            picture(folder / f"images/{split}/{name}", n % 2)
            scenes.append({"image_filename": name, "objects": [{"shape": "cube"}] * (3, 10)[n % 2]})
        (folder / "scenes").mkdir(exist_ok=True)
        (folder / f"scenes/CLEVR_{split}_scenes.json").write_text(json.dumps({"info": {}, "scenes": scenes}))


def fer2013(root: Path) -> None:
    usages = ["Training"] * 6 + ["PublicTest"] * 2 + ["PrivateTest"] * 4
    pixels = bright([n % 2 for n in range(12)], 48 * 48)
    rows = [f"{(0, 6)[n % 2]},{' '.join(map(str, pixels[n]))},{usage}" for n, usage in enumerate(usages)]
    lines(root / "fer2013/fer2013.csv", ["emotion,pixels,Usage", *rows])


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    names = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
    lines(folder / "ClassName.txt", names)
    for split, few in (("Training", range(4)), ("Testing", range(4, 6))):
        listed = [f"{name}/sun_{'abcdef'[n]}.jpg" for name in names for n in few]
        lines(folder / f"Partitions/{split}_01.txt", listed)
        for path in listed:
            picture(folder / path[1:], names.index(path.rpartition("/")[0]))


def sst(root: Path) -> None:
    for split, num in (("train", 4), ("valid", 1), ("test", 2)):
        for number, name in enumerate(("negative", "positive")):
            pictures(root / "rendered-sst2" / split / name, (f"{n:04d}.png" for n in range(num)), number)


def country211(root: Path) -> None:
    for split, num in (("train", 4), ("valid", 2), ("test", 3)):
        for number, name in enumerate(("AD", "ZW")):
            pictures(root / "country211" / split / name, (f"{n}{name}.jpg" for n in range(num)), number)


SYNSETS = [f"n{1440764 + 7 * n:08d}" for n in range(1000)]


def imagenet(root: Path) -> None:
    for split in ("train", "val"):
        for synset in SYNSETS:
            (root / "imagenet" / split / synset).mkdir(parents=True)
    for at in (0, 1, 999):
        folder = root / "imagenet"
        pictures(folder / "train" / SYNSETS[at], (f"{SYNSETS[at]}_{n}.JPEG" for n in range(5)), at)
        pictures(folder / "val" / SYNSETS[at], [f"ILSVRC2012_val_{at:08d}.JPEG"], at)


MADE: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (food101, cifar10, cifar100, cars, aircraft, dtd, pets, caltech101, flowers102, mnist, stl10, eurosat,
                 gtsrb, kitti, pcam, ucf101, clevr, fer2013, sun397, sst, country211, imagenet)
}  # fmt: skip
"""One for each task."""
