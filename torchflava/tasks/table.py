"""How each of the 22 image tasks is read, of what sizes it is and where its data come from.

Metrics and the sizes that others agree on are from CLIP (Radford et al. 2021, table 9); where the data have other sizes than that
table, docs/tasks.md says why. Prompts are plain words of ours, not those that CLIP tuned for each task.
"""

from torchflava.tasks import by_arrays, by_lists, by_torchvision
from torchflava.tasks.images import hold_out_groups
from torchflava.tasks.kitti import kitti
from torchflava.tasks.places import Needed
from torchflava.tasks.spec import Sizes, Spec, parted


def _all_from(source: str, *paths: str) -> tuple[Needed, ...]:
    return tuple(Needed(path, source) for path in paths)


_IMAGENET = "{} of image-net.org (ILSVRC2012); torchvision.datasets.ImageNet sorts it into a folder for each synset"
_CIFAR = "{} of www.cs.toronto.edu/~kriz/cifar.html, the Python version"
_CARS = "the Stanford Cars data set, whose own page is gone; mirrors hold {}"
_AIRCRAFT = "fgvc-aircraft-2013b.tar.gz of www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
_PETS = "{} of www.robots.ox.ac.uk/~vgg/data/pets"
_FLOWERS = "{} of www.robots.ox.ac.uk/~vgg/data/flowers/102"
_MNIST = "{}.gz of ossci-datasets.s3.amazonaws.com/mnist, unpacked"
_GTSRB = "{} of the German Traffic Sign Recognition Benchmark, benchmark.ini.rub.de"
_KITTI = "{} of www.cvlibs.net/datasets/kitti (object detection)"
_PCAM = "{}.gz of github.com/basveeling/pcam, unpacked"
_UCF = "{} of www.crcv.ucf.edu/data/UCF101.php"
_SUN = "{} of vision.princeton.edu/projects/2010/SUN"
_OPENAI = "{} of github.com/openai/CLIP, data/{}"
_STL = "stl10_binary.tar.gz of cs.stanford.edu/~acoates/stl10"

TABLE = {
    "food101": Spec(
        by_torchvision.food101,
        Sizes(101, 75750, 25250),
        _all_from(
            "food-101.tar.gz of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101", "food-101/meta", "food-101/images"
        ),
    ),
    "cifar10": Spec(
        by_arrays.cifar10,
        Sizes(10, 50000, 10000),
        _all_from(
            _CIFAR.format("cifar-10-python.tar.gz"),
            *(
                f"cifar-10-batches-py/{name}"
                for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")
            ),
        ),
    ),
    "cifar100": Spec(
        by_arrays.cifar100,
        Sizes(100, 50000, 10000),
        _all_from(
            _CIFAR.format("cifar-100-python.tar.gz"),
            *(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
        ),
    ),
    "cars": Spec(
        by_torchvision.cars,
        Sizes(196, 8144, 8041),
        (
            Needed("stanford_cars/devkit/cars_meta.mat", _CARS.format("car_devkit.tgz")),
            Needed("stanford_cars/devkit/cars_train_annos.mat", _CARS.format("car_devkit.tgz"), "train"),
            Needed("stanford_cars/cars_train", _CARS.format("cars_train.tgz"), "train"),
            Needed(
                "stanford_cars/cars_test_annos_withlabels.mat", _CARS.format("cars_test_annos_withlabels.mat"), "test"
            ),
            Needed("stanford_cars/cars_test", _CARS.format("cars_test.tgz"), "test"),
        ),
        package="scipy",
    ),
    "aircraft": Spec(
        by_torchvision.aircraft,
        Sizes(100, 6667, 3333),
        _all_from(_AIRCRAFT, "fgvc-aircraft-2013b/data/variants.txt", "fgvc-aircraft-2013b/data/images"),
        valid="val",
        metric="mean_per_class",
        templates=("a photo of a {}, an aircraft.",),
    ),
    "dtd": Spec(
        by_torchvision.dtd,
        Sizes(47, 3760, 1880),
        _all_from("dtd-r1.0.1.tar.gz of www.robots.ox.ac.uk/~vgg/data/dtd", "dtd/dtd/labels", "dtd/dtd/images"),
        valid="val",
        templates=("a photo of a {} texture.",),
    ),
    "pets": Spec(
        by_lists.pets,
        Sizes(37, 3680, 3669),
        (
            Needed("oxford-iiit-pet/annotations/trainval.txt", _PETS.format("annotations.tar.gz"), "train"),
            Needed("oxford-iiit-pet/annotations/test.txt", _PETS.format("annotations.tar.gz"), "test"),
            Needed("oxford-iiit-pet/images", _PETS.format("images.tar.gz")),
        ),
        train="trainval",
        metric="mean_per_class",
    ),
    "caltech101": Spec(
        by_lists.caltech101,
        Sizes(102, 3060, 6084),
        _all_from(
            "101_ObjectCategories.tar.gz in caltech-101.zip of data.caltech.edu/records/mzrjq-6wc02",
            "caltech101/101_ObjectCategories",
        ),
        metric="mean_per_class",
    ),
    "flowers102": Spec(
        by_lists.flowers102,
        Sizes(102, 2040, 6149),
        (
            Needed("flowers-102/setid.mat", _FLOWERS.format("setid.mat")),
            Needed("flowers-102/imagelabels.mat", _FLOWERS.format("imagelabels.mat")),
            Needed("flowers-102/jpg", _FLOWERS.format("102flowers.tgz")),
        ),
        train="trnid",
        valid="valid",
        test="tstid",
        metric="mean_per_class",
        templates=("a photo of a {}, a flower.",),
        package="scipy",
    ),
    "mnist": Spec(
        by_torchvision.mnist,
        Sizes(10, 60000, 10000),
        tuple(
            Needed(f"MNIST/raw/{name}", _MNIST.format(name))
            for part in ("train", "t10k")
            for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        ),
        templates=("a photo of the digit {}.",),
    ),
    "stl10": Spec(
        by_arrays.stl10,
        Sizes(10, 1000, 8000),
        (
            Needed("stl10_binary/class_names.txt", _STL),
            *(
                Needed(f"stl10_binary/{name}", _STL, "train")
                for name in ("train_X.bin", "train_y.bin", "fold_indices.txt")
            ),
            *(Needed(f"stl10_binary/{name}", _STL, "test") for name in ("test_X.bin", "test_y.bin")),
        ),
    ),
    "eurosat": Spec(
        by_lists.eurosat,
        Sizes(10, 10000, 5000),
        _all_from("EuroSAT.zip of github.com/phelber/EuroSAT, the RGB version", "eurosat/2750"),
        templates=("a satellite photo of {}.",),
        word=parted,
    ),
    "gtsrb": Spec(
        by_lists.gtsrb,
        Sizes(43, 26640, 12630),
        (
            Needed("gtsrb/GTSRB/Training", _GTSRB.format("GTSRB-Training_fixed.zip"), "train"),
            Needed("gtsrb/GTSRB/Final_Test/Images", _GTSRB.format("GTSRB_Final_Test_Images.zip"), "test"),
            Needed("gtsrb/GT-final_test.csv", _GTSRB.format("GTSRB_Final_Test_GT.zip"), "test"),
        ),
        hold_out=hold_out_groups,
        unnamed="tells signs by numbers",
    ),
    "kitti": Spec(
        kitti,
        Sizes(4, 6770, 711),
        (
            Needed("Kitti/raw/training/image_2", _KITTI.format("data_object_image_2.zip")),
            Needed("Kitti/raw/training/label_2", _KITTI.format("data_object_label_2.zip")),
            *(
                Needed(f"Kitti/raw/mapping/train_{name}.txt", _KITTI.format("devkit_object.zip"))
                for name in ("mapping", "rand")
            ),
        ),
        valid="valid",
        templates=("a photo of the street with the nearest vehicle {}.",),
    ),
    "pcam": Spec(
        by_arrays.pcam,
        Sizes(2, 294912, 32768),
        tuple(
            Needed(f"pcam/{name}", _PCAM.format(name), "test" if split == "test" else "train")
            for split in ("train", "valid", "test")
            for name in (f"camelyonpatch_level_2_split_{split}_{part}.h5" for part in "xy")
        ),
        valid="valid",
        templates=("a microscope picture of a lymph node with {}.",),
        package="h5py",
    ),
    "ucf101": Spec(
        by_lists.ucf101,
        Sizes(101, 9537, 3783),
        (
            Needed("ucf101/ucfTrainTestlist/classInd.txt", _UCF.format("UCF101TrainTestSplits-RecognitionTask.zip")),
            Needed(
                "ucf101/ucfTrainTestlist/trainlist01.txt",
                _UCF.format("UCF101TrainTestSplits-RecognitionTask.zip"),
                "train",
            ),
            Needed(
                "ucf101/ucfTrainTestlist/testlist01.txt",
                _UCF.format("UCF101TrainTestSplits-RecognitionTask.zip"),
                "test",
            ),
            Needed("ucf101/frames", f"the clips in {_UCF.format('UCF101.rar')}, of each the middle frame"),
        ),
        hold_out=hold_out_groups,
        templates=("a photo of a person doing {}.",),
        word=parted,
    ),
    "clevr": Spec(
        by_lists.clevr_sample,
        Sizes(8, 2000, 500),
        tuple(
            Needed(
                f"clevr/CLEVR_v1.0/{path}",
                "CLEVR_v1.0.zip of cs.stanford.edu/people/jcjohns/clevr",
                "train" if part == "train" else "test",
            )
            for part in ("train", "val")
            for path in (f"images/{part}", f"scenes/CLEVR_{part}_scenes.json")
        ),
        test="val",
        templates=("a picture of {} things.",),
    ),
    "fer2013": Spec(
        by_arrays.fer2013,
        Sizes(7, 32298, 3589),
        _all_from(
            "fer2013.tar.gz of www.kaggle.com, challenges-in-representation-learning-facial-expression-recognition-challenge",
            "fer2013/fer2013.csv|fer2013/icml_face_data.csv",
        ),
        train="Training",
        valid="PublicTest",
        test="PrivateTest",
        templates=("a photo of a person who looks {}.",),
    ),
    "sun397": Spec(
        by_lists.sun397,
        Sizes(397, 19850, 19850),
        (
            Needed("SUN397/ClassName.txt", _SUN.format("SUN397.tar.gz")),
            Needed("SUN397/Partitions/Training_01.txt", _SUN.format("Partitions.zip"), "train"),
            Needed("SUN397/Partitions/Testing_01.txt", _SUN.format("Partitions.zip"), "test"),
        ),
        train="Training",
        test="Testing",
    ),
    "sst": Spec(
        by_torchvision.rendered_sst2,
        Sizes(2, 7792, 1821),
        tuple(
            Needed(
                f"rendered-sst2/{split}",
                _OPENAI.format("rendered-sst2.tgz", "rendered-sst2.md"),
                "test" if split == "test" else "train",
            )
            for split in ("train", "valid", "test")
        ),
        valid="val",
        templates=("a {} review of a film.",),
    ),
    "country211": Spec(
        by_torchvision.country211,
        Sizes(211, 42200, 21100),
        tuple(
            Needed(
                f"country211/{split}",
                _OPENAI.format("country211.tgz", "country211.md"),
                "test" if split == "test" else "train",
            )
            for split in ("train", "valid", "test")
        ),
        valid="valid",
        templates=("a photo taken in {}.",),
        unnamed="tells countries by codes",
    ),
    "imagenet": Spec(
        by_lists.imagenet,
        Sizes(1000, 1281167, 50000),
        (
            Needed("imagenet/train", _IMAGENET.format("ILSVRC2012_img_train.tar"), "train"),
            Needed("imagenet/val", _IMAGENET.format("ILSVRC2012_img_val.tar"), "test"),
        ),
        test="val",
        unnamed="tells classes by WordNet's numbers",
    ),
}
"""The tasks, the paper's 22 first."""
