"""The commands from slides to bags, as a user gives them."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from phantom_rendering.slides import main as draw
from PIL import Image

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.slides.pictures import open_picture, write_pyramid
from tests.slides.conftest import noise, plain_tiff, section


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    for name in ("1", "2"):
        write_pyramid(folder / f"{name}.tif", section(800, 900, 150), mpp=0.5, description="")
    return folder


@pytest.fixture
def extract(mbench, slides, tmp_path):
    """`mbench features extract` on two slides with the quick patch encoder."""

    def call(*arguments, slides=slides):
        return mbench(
            "features", "extract", "--slides", slides, "--cohort", "bcnb", "--out",
            tmp_path / "bags", "--patch-encoder", "stain-texture", "--patch-px", "128", *arguments,
        )  # fmt: skip

    return call


def bag_path(tmp_path, name="1"):
    return tmp_path / "bags" / "10x_128px_0px_overlap" / "features_stain-texture" / f"{name}.h5"


def test_info_tells_size_resolution_and_levels(mbench, slides):
    said = mbench("slides", "info", slides)
    assert said.code == 0
    assert "2 slides" in said.out
    assert "900 x 800" in said.out
    assert "0.5 (stated)" in said.out


def test_info_fails_where_the_resolution_is_unknown(mbench, slides):
    plain_tiff(slides / "3.tif", noise(300, 300))
    said = mbench("slides", "info", slides)
    assert said.code == 1
    assert "3 slides" in said.out
    assert "unknown" in said.out
    assert "--mpp 0.25" in said.err
    assert mbench("slides", "info", slides, "--mpp", "0.5").code == 0


def test_info_and_extract_name_what_no_reader_opens(mbench, extract, slides):
    (slides / "4.czi").write_bytes(b"x")
    (slides / "5.svs").symlink_to(slides / "absent")
    (slides / "notes.txt").write_text("x")
    for said in (mbench("slides", "info", slides), extract()):
        assert said.code == 1
        text = " ".join((said.out + said.err).split())
        assert "4.czi is not a slide" in text
        assert "5.svs is a link that leads nowhere" in text
        assert "1 .txt" in text


def test_the_resolutions_of_a_table_count_where_none_is_stated(mbench, extract, slides, tmp_path):
    plain_tiff(slides / "3.ome.tif", section(800, 800, 100))
    table = tmp_path / "list.csv"
    table.write_text("wsi,mpp\nsub/3.ome.tif,0.5\n2.tif,0.25\n1,\nabsent.svs,0.5\n")
    said = extract("--mpp", table)
    assert said.code == 0, said.err
    text = " ".join(said.err.split())
    assert "note: 1 of 3 slides of the table of --mpp are not here: absent" in text
    assert "2: its file states 0.5 micrometres per pixel, so --mpp 0.25 is not used" in text
    forced = mbench("slides", "info", slides, "--force-mpp", table)
    assert forced.code == 0
    assert "0.25 (given)" in forced.out
    assert forced.out.count("0.5 (given)") == 1
    assert forced.out.count("0.5 (stated)") == 1


def test_convert_takes_the_tiffs_of_a_folder_but_not_its_own_slides(mbench, tmp_path):
    for name in ("a.tif", "b.png"):
        Image.fromarray(noise(40, 50)).save(tmp_path / name)
    (tmp_path / "c.svs").write_bytes(b"x")
    convert = (
        "slides",
        "convert",
        tmp_path,
        "--mpp",
        "1",
        "--out",
        tmp_path / "made",
        "--overwrite",
    )
    for _ in range(2):
        said = mbench(*convert)
        assert said.code == 0, said.err
        assert "2 slides in" in said.out
        assert "1 .svs" in said.err
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["a.tif", "b.tif"]
    Image.fromarray(noise(40, 50)).save(tmp_path / "a.jpg")
    said = mbench(*convert)
    assert said.code == 2
    assert "two pictures are called 'a'" in said.err


def test_convert_makes_slides_and_names_what_it_could_not(mbench, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(noise(90, 120)).save(pictures / "good.png")
    (pictures / "bad.jpg").write_text("no picture")
    said = mbench("slides", "convert", pictures, "--mpp", "2", "--out", tmp_path / "made")
    assert said.code == 2
    assert "bad.jpg is not a picture" in said.err
    assert "1 slides in" in said.out
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["good.tif"]
    again = mbench("slides", "convert", pictures / "good.png", "--mpp", "2", "--out",
                   tmp_path / "made")  # fmt: skip
    assert again.code == 2
    assert "--overwrite" in again.err


def test_convert_takes_pages_channels_and_a_range(mbench, tmp_path):
    pages = np.stack([noise(40, 60)[..., 0].astype(np.float32), np.full((40, 60), 50, np.float32)])
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack", metadata=None)
    convert = ("slides", "convert", tmp_path / "x.tif", "--mpp", "1", "--out", tmp_path / "made")
    for options, message in (
        ((), "--page NUMBER"),
        (("--page", "2"), "--scale LOW HIGH"),
        (("--page", "2", "--channel", "2"), "holds 1 channels"),
        (("--page", "1", "--page", "2"), "expected one number"),
        (("--page", "2", "--scale", "9", "1"), "--scale is 9 1"),
    ):
        said = mbench(*convert, *options)
        assert said.code == 2
        assert message in said.err.replace("\n", " ")
    assert mbench(*convert, "--page", "2", "--scale", "0", "100").code == 0
    assert (tifffile.imread(tmp_path / "made" / "x.tif") == 128).all()


def test_convert_needs_a_resolution_and_pictures(mbench, tmp_path):
    assert mbench("slides", "convert", tmp_path).code == 2  # no --mpp
    said = mbench("slides", "convert", tmp_path, "--mpp", "1")
    assert said.code == 2
    assert "no picture in" in said.err


def test_extract_writes_bags_and_says_how_to_use_them(extract, tmp_path):
    said = extract()
    assert said.code == 0, said.err
    assert "2 extracted" in said.out
    assert "[cohorts.bcnb]" in said.out
    assert f'features = "{bag_path(tmp_path).parent}"' in said.out
    bag = read_bag_file(bag_path(tmp_path))
    assert len(bag.features) > 3
    assert bag.facts.patch_encoder == "stain-texture"
    again = extract()
    assert again.code == 0
    assert "2 already there" in again.out


def test_extract_goes_on_past_a_bad_slide_and_exits_with_1(extract, slides, tmp_path):
    (slides / "text.svs").write_text("not a slide")
    said = extract()
    assert said.code == 1
    assert "1 of 3 slides failed" in said.err
    assert "text.svs is not a slide" in said.err
    assert "2 extracted" in said.out
    assert bag_path(tmp_path, "2").is_file()


def test_extract_does_not_offer_bags_that_are_not_there(extract):
    said = extract("--patch-mpp", "0.1")
    assert said.code == 1
    assert "2 failed" in said.out
    assert "mbench.toml" not in said.out


def test_extract_says_what_is_no_cohort(extract):
    said = extract("--cohort", "bncb")
    assert said.code == 0
    assert "did you mean 'bcnb'?" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--patch-encoder", "UNI"), "did you mean 'uni'?"),
        (("--patch-encoder", "efficient-lite0"), "did you mean 'efficientnet-lite0'?"),
        (("--patch-encoder", "absent/card.yaml"), "cannot read absent/card.yaml"),
        (("--patch-mpp", "1", "--magnification", "10"), "say the same"),
        (("--magnification", "0"), "--magnification is 0"),
        (("--patch-px", "0"), "--patch-px is 0"),
        (("--overlap-px", "128"), "--overlap-px is 128"),
        (("--min-tissue", "50"), "--min-tissue is 50"),
        (("--workers", "0"), "--workers is 0"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--cohort", "My Cohort"), "lower case"),
        (("--patches", "absent"), "no folder absent"),
        (("--device", "tpu"), "tpu"),
        (("--weights", "absent.safetensors"), "absent.safetensors"),
        (("--mpp", "half"), "--mpp is 'half'; expected micrometres per pixel, or a table"),
        (("--force-mpp", "1000"), "--force-mpp is 1000.0"),
    ],
)
def test_extract_refuses_wrong_options(extract, tmp_path, arguments, message):
    said = extract(*arguments)
    assert said.code == 2
    assert message in said.err.replace("\n", " ")
    assert "Traceback" not in said.err
    assert not (tmp_path / "bags").exists()


def test_extract_refuses_an_absent_folder_and_one_without_slides(extract, tmp_path):
    assert "no folder" in extract(slides=tmp_path / "absent").err
    (tmp_path / "empty").mkdir()
    said = extract(slides=tmp_path / "empty")
    assert said.code == 2
    assert "no slide under" in said.err


def test_gpu_asked_for_and_absent(extract):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = extract("--patch-encoder", "efficientnet-lite0", "--device", "cuda")
    assert said.code == 2
    assert "GPU" in said.err


def test_encoders_lists_what_each_needs(mbench):
    said = mbench("features", "encoders")
    assert said.code == 0
    for name in ("efficientnet-lite0", "stain-texture", "uni", "conch-v1", "virchow", "resnet50"):
        assert name in said.out


def test_show_draws_tissue_patches_and_attention(mbench, extract, slides, tmp_path):
    extract()
    slide, bag = slides / "1.tif", bag_path(tmp_path)
    assert mbench("slides", "show", slide, "--out", tmp_path / "tissue.png").code == 0
    assert mbench("slides", "show", slide, "--out", tmp_path / "grid.png", "--bag", bag).code == 0
    said = mbench("slides", "show", slide, "--out", tmp_path / "heat.png", "--bag", bag,
                  "--encoder", "untrained")  # fmt: skip
    assert said.code == 0, said.err
    drawn = {name: open_picture(tmp_path / f"{name}.png")[:] for name in ("tissue", "grid", "heat")}
    assert drawn["heat"].shape == (800, 900, 3)
    assert drawn["tissue"].shape == drawn["grid"].shape == (100, 113, 3)  # 4 micrometres a pixel
    assert not np.array_equal(drawn["tissue"], drawn["grid"])


def test_show_refuses_what_does_not_fit(mbench, extract, slides, tmp_path):
    extract()
    slide, bag, out = slides / "1.tif", bag_path(tmp_path), tmp_path / "x.png"

    def refused(*arguments):
        said = mbench("slides", "show", *arguments)
        assert said.code == 2
        assert not out.exists()
        return said.err

    assert ".png" in refused(slide, "--out", tmp_path / "x.jpg")
    assert "--encoder needs --bag" in refused(slide, "--out", out, "--encoder", "untrained")
    assert "no method attention" in refused(
        slide, "--out", out, "--bag", bag, "--encoder", "mean-pool"
    )
    assert "expects features of phantom-512" in refused(
        slide, "--out", out, "--bag", bag, "--encoder", "madeleine", "--organ", "breast"
    )
    write_pyramid(tmp_path / "small.tif", section(300, 300, 20), mpp=0.5, description="")
    assert "is it of another slide?" in refused(tmp_path / "small.tif", "--out", out, "--bag", bag)
    assert "no feature file" in refused(slide, "--out", out, "--bag", tmp_path / "absent.h5")


def test_the_patch_encoder_of_the_page_runs(mbench, slides, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "slides.md").read_text()
    for kind, name in (("python", "encoder.py"), ("yaml", "card.yaml")):
        (block,) = re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)
        (tmp_path / name).write_text(block)
    said = mbench("features", "extract", "--slides", slides, "--cohort", "bcnb", "--out",
                  tmp_path / "bags", "--patch-encoder", tmp_path / "card.yaml")  # fmt: skip
    assert said.code == 0, said.err
    (path,) = (tmp_path / "bags").glob("*/features_mean-colour/1.h5")
    features = read_bag_file(path).features
    assert features.shape[1] == 3
    assert 0 < features.min() <= features.max() <= 1


@pytest.mark.slow
def test_from_phantom_slides_to_a_board_of_their_own(mbench, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert draw(["bcnb", "--cases", "16", "--mpp", "2", "--out", "bcnb"]) == 0
    assert "PHANTOM slides of bcnb: 16 drawn" in capsys.readouterr().out
    said = mbench("features", "extract", "--slides", "bcnb/slides", "--cohort", "bcnb", "--out",
                  "bags", "--patch-encoder", "stain-texture", "--patch-mpp", "2",
                  "--patch-px", "128")  # fmt: skip
    assert said.code == 0, said.err
    features = tmp_path / "bags" / "5x_128px_0px_overlap" / "features_stain-texture"
    toml = f'[cohorts.bcnb]\nfeatures = "{features}"\nlabels = "bcnb/labels.csv"\n'
    (tmp_path / "mbench.toml").write_text(toml)
    run = mbench("run", "--encoder", "mean-pool", "--task", "bcnb-aln", "--protocol",
                 "linear-probe", "--jobs", "1")  # fmt: skip
    assert run.code == 0, run.err
    assert "Board 'phantom-rendered'" in run.out
    assert "PHANTOM" in run.out
    assert "Board 'local'" not in run.out
    oracle = mbench("run", "--encoder", "oracle", "--task", "bcnb-aln", "--jobs", "1")
    assert oracle.code == 2
    assert "generated phantom bags" in oracle.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bncb",), "did you mean 'bcnb'?"),
        (("bwh-kidney",), "breast cohorts only"),
        (("bcnb", "--cases", "0"), "1 to 1058 cases"),
        (("ucsb-breast",), "no key 'phantom'"),
        (("bcnb", "--mpp", "50"), "mpp"),
        (("bcnb", "--jobs", "0"), "jobs"),
    ],
)
def test_phantom_slides_refuse_wrong_options(capsys, tmp_path, arguments, message):
    assert draw([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_where_the_script_lies_that_draws_them(mbench):
    said = mbench("data", "phantom-slides", "acrobat", "--cases", "24")
    assert said.code == 2
    assert "python examples/phantom_slides acrobat --cases 24" in said.err
