"""CLIF and Word Contrast on mini-sdxl, and with a small CLIP that the host's own loaders read."""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_vision
import comfy.model_management as memory
import comfy.sd
import concepts
import folder_paths
import inside
import small
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

checkpoint, temporary = sys.argv[1:]
folder_paths.set_temp_directory(temporary)
folder_paths.set_input_directory(temporary)
torch.inference_mode().__enter__()  # as the host runs nodes
contrasts, methods = (inside.pack(f"nodes.training.{name}") for name in ("contrast", "methods"))
train, subject = inside.pack("nodes.training.train"), inside.pack("nodes.training.subject")
mini, photos = inside.pack("nodes.mini.load"), inside.pack("nodes.mini.photos")
comfy_host, base = inside.pack("nodes.host.comfy"), inside.pack("nodes.host.base")
progress = inside.pack("nodes.training.progress")
core = inside.pack("cidm_core.diffusers_host.contrast")
Bank = inside.pack("cidm_core.bank").Bank
folder = Path(temporary)
GIVEN = {"contrast_steps": 4, "word_steps": 2, "batch_size": 2, "accumulation": 1, "variants": 2}
GIVEN |= {"rank": 2, "contrast_batch": 6, "global_pairs": 6, "region_pairs": 2}
GIVEN |= {"meeting_pairs": 2, "lr": 1e-3, "lr_words": 1e-3, "lr_contrast": 1e-2}
HERE = {"steps": 2, "seed": 0}
QUIET = {"save_every": 0, "preview_every": 0}
CATS = (("purple cat", "<pur1> <pur2>"), ("teal cat", "<tea1> <tea2>"))


class Node(train.TrainConcept):
    hidden = SimpleNamespace(unique_id=None, prompt=None)


errors = inside.pack("cidm_core.errors").CidmError, memory.InterruptProcessingException


def ask(call, *args, **given):
    """What it gives, or the error's text."""
    try:
        return call(*args, **given)
    except errors as error:
        return f"{type(error).__name__}: {error}"


def cat(look, words):
    images, captions, masks = photos.MiniPhotos.execute(look).args
    given = {"images": images, "captions": captions, "masks": masks, "words": words}
    return given | {"class_words": "cat", "kind": "object"}


def learn(bank, sockets, first, second, contrast=None, **settings):
    """One run of Train Concept with Method: CLIF; its output."""
    method = methods.MethodClif.execute(**GIVEN | QUIET | settings).args[0]
    given = {**first, **HERE, "preset": "Balanced", "method": method, "bank": bank}
    given |= dict(zip(("model", "clip", "vae"), sockets, strict=True))
    if second is not None:
        (given["subjects"], _) = subject.MoreSubjects.execute(
            **{key: [value] for key, value in second.items()}
        ).args
    given |= {} if contrast is None else {"contrast": contrast}
    return Node.execute(**{key: [value] for key, value in given.items()})


@contextlib.contextmanager
def heard(listen):
    """Every event of a run is told to `listen` too."""
    real = progress.Reporter.on_progress

    def both(self, event):
        real(self, event)
        listen(event)

    progress.Reporter.on_progress = both
    yield
    progress.Reporter.on_progress = real


def rows(bank):
    (concept,) = bank.values()
    return torch.cat([each.flatten() for _, each in sorted(concept.rows.items())])


def stages(bank):
    (log,) = bank.path.glob(".runs/*/log.jsonl")
    return [json.loads(line)["stage"] for line in log.open()]


def in_core():
    """The same two cats, learned by the other host."""
    data = inside.pack("cidm_core.training.data")
    looks = inside.pack("cidm_core.mini.looks")
    clif = inside.pack("cidm_core.methods")
    load = inside.pack("cidm_core.diffusers_host.load")
    things = inside.pack("cidm_core.mini.common_things").drawn_things()
    made = load.load_base("mini-sdxl", device="cpu", dtype="fp32")
    subjects = [
        data.TrainingSubject(
            [data.Photo.from_image(*each) for each in looks.example_photos(look)], words, "cat"
        )
        for look, (_, words) in zip(looks.DEMO_LOOKS, CATS, strict=False)
    ]
    config = clif.config_for("clif", made.family, **GIVEN | QUIET | HERE, precision="fp32")
    bank, eye = Bank(folder / "core"), core.load_contrast_clip("mini-clip", "cpu")
    contrast = inside.pack("cidm_core.diffusers_host.composites").Contrast(eye, things)
    first = {"words": subjects[0].words, "class_words": "cat", "method": "clif", "config": config}
    inside.pack("cidm_core.diffusers_host.train").train_concept(
        made, bank, subjects[0].photos, subjects=subjects[1:], contrast=contrast, **first
    )
    return bank


def on_mini():
    """Learned, found again, interrupted in the contrast and gone on."""
    sockets = mini.LoadMiniModel.execute("mini-sdxl").args[:3]
    pair = [cat(*each) for each in CATS]
    shown = []
    show = comfy_host.show_progress
    comfy_host.show_progress = lambda done, of, picture, _: shown.append((done, of, picture))
    said, comfy_host.say_on_node = [], lambda text, _: said.append(text)
    bank, stopped = Bank(folder / "host"), Bank(folder / "stopped")
    text = learn(bank, sockets, *pair).ui["text"][0]
    pictures = [picture.size for *_, picture in shown if picture is not None]
    again = learn(bank, sockets, *pair).ui["text"][0]
    contrast = contrasts.WordContrast.execute().args[0]
    by_node = learn(bank, sockets, *pair, contrast=contrast).ui["text"][0]

    def cancel(event):
        if event.stage == "contrast" and event.stage_step == 2:
            memory.interrupt_current_processing(True)

    with heard(cancel):
        ended = ask(learn, stopped, sockets, *pair)
    kept = len(stages(stopped))
    learn(stopped, sockets, *pair)
    comfy_host.show_progress = show
    other = rows(in_core())
    return {
        "text": text,
        "pictures": pictures,
        "said": said,
        "again": again,
        "open node": by_node,
        "ended": ended,
        "kept": kept,
        "went on": bool(torch.equal(rows(bank), rows(stopped))),
        "stages": stages(bank),
        "asked": inside.pack("nodes.training.inputs").MethodInputs("clif").asked({"steps": 0}),
        "apart": float((rows(bank) - other).abs().mean() / other.abs().mean()),
        "one": learn(Bank(folder / "one"), sockets, pair[0], None).ui["text"][0],
    }


WIDE, SMALL = 768, {"num_hidden_layers": 2, "intermediate_size": 64}
EYE = {"hidden_size": 64, "intermediate_size": 64, "image_size": 32, "patch_size": 16}
TEXTS = ("a photo of a cat", "a red dog on the left and a chef on the right")


def whole_clip():
    """A CLIP of random weights with both projections, and its file."""
    torch.manual_seed(0)
    text = {**SMALL, "hidden_size": WIDE, "num_attention_heads": 12, "eos_token_id": 49407}
    # The host tells ViT-L by its 23rd layer.
    eye = {**EYE, "num_hidden_layers": 24, "num_attention_heads": 16, "projection_dim": WIDE}
    sizes = {"text_config": text, "vision_config": eye, "projection_dim": WIDE}
    with torch.inference_mode(False):
        model = CLIPModel(CLIPConfig(**sizes)).eval().requires_grad_(False)
    for name in ("text_projection", "visual_projection"):
        getattr(model, name).weight.normal_(0, 0.03)
    held = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in held.items()})
    path = folder / "clip.safetensors"
    save_file({key: value for key, value in held.items() if "position_ids" not in key}, path)
    return model, str(path)


def loaded(path):
    """CLIP_VISION and CLIP by the host's loaders, which are told that it is small."""
    real = comfy.clip_vision.ClipVisionModel
    narrow = {**EYE, "num_attention_heads": 16}
    comfy.clip_vision.ClipVisionModel = lambda config: real(
        {**json.loads(Path(config).read_text()), **narrow}
    )
    eye = comfy.clip_vision.load(path)
    comfy.clip_vision.ClipVisionModel = real
    return eye, comfy.sd.load_clip([path], model_options={"model_config": dict(SMALL)})


def features(model, eye, clip, made, sockets):
    """Largest differences of features of texts and pictures from those of transformers."""
    with base.base_of(sockets[0], clip, sockets[2], "fp32") as held:
        found = core.text_features(held, made, TEXTS, {})
        ids = held.tokenizers[0](list(TEXTS), padding=True, return_tensors="pt")
    states = model.text_model(**ids).last_hidden_state
    ends = ids.input_ids.argmax(-1)
    texts = model.text_projection(states[torch.arange(len(ends)), ends])
    seen = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    seen = (seen * 255).round()
    pictures = [Image.fromarray(each.byte().numpy()) for each in seen]
    mean, deviation = (torch.tensor(getattr(eye, name)) for name in ("image_mean", "image_std"))
    pixels = ((seen / 255 - mean) / deviation).movedim(-1, 1)
    eyes = model.visual_projection(model.vision_model(pixels).pooler_output)
    return {
        "texts": float((found - texts).abs().max() / texts.abs().max()),
        "pictures": float((made.images(pictures) - eyes).abs().max() / eyes.abs().max()),
        "scale": made.scale,
        "name": made.name
        == inside.pack("cidm_core.fingerprints").fingerprint(
            [model.text_projection.weight, model.visual_projection.weight]
        ),
    }


def with_clip():
    """Learned with a CLIP of the host's; what is wrong with it or with things."""
    model, path = whole_clip()
    eye, clip = loaded(path)
    opened = small.opened("SD15", checkpoint)
    sockets = (*opened, concepts.tiny_vae())
    things, masks = torch.rand(2, 24, 16, 3), torch.zeros(2, 24, 16)
    masks[:, 4:20, 4:12] = 1
    named = {"things": [things], "thing_masks": [masks], "thing_names": ["chef\nstool"]}
    both = {"clip_vision": [eye], "clip": [clip]}
    node = contrasts.WordContrast.execute
    contrast = node(**both, **named).args[0]
    pair = [cat(*each) for each in CATS]
    bank, size = Bank(folder / "sd15"), {"resolution_px": 64}
    held = []

    def watch(event):
        inside_memory = [each.model for each in memory.current_loaded_models]
        held.append((event.phase, eye.patcher in inside_memory))

    with heard(watch):
        learned = learn(bank, sockets, *pair, contrast, **size).ui["text"][0]
    left = ("composing", True) in held and ("learning", True) not in held

    def wrong(**given):
        return ask(node, **{"thing_names": [""], **given})

    blank = {**named, "thing_masks": [torch.cat([masks[:1], torch.zeros(1, 24, 16)])]}
    whole = {**named, "thing_masks": [torch.ones(2, 24, 16)]}
    (folder / "things").mkdir()
    bare = {key: value for key, value in pair[0].items() if key != "masks"}
    fresh = Bank(folder / "fresh")
    narrow = SimpleNamespace(model=SimpleNamespace(visual_projection=torch.nn.Linear(4, 32)))
    return {
        "features": features(model, eye, clip, contrast.clip, sockets),
        "learned": learned,
        "stages": stages(bank),
        "finite": bool(rows(bank).isfinite().all()),
        "eye left": left,
        "wrong": {
            "no clip": wrong(clip_vision=[eye]),
            "no vision": wrong(clip=[clip]),
            "checkpoint's": wrong(clip_vision=[eye], clip=[opened[1]]),
            "two models": wrong(clip_vision=[narrow], clip=[clip]),
            "numbers": wrong(**{**named, "thing_names": ["chef"]}),
            "masks": wrong(things=[things], thing_names=["chef\nstool"]),
            "blank": wrong(**blank),
            "whole": wrong(**whole),
            "nameless": wrong(**{**named, "thing_names": ["chef\n2"]}),
            "both": wrong(**named, photo_folder=["things"]),
            "empty folder": wrong(photo_folder=["things"]),
            "bare": ask(learn, fresh, sockets, bare, None, contrast),
            "open": ask(learn, fresh, sockets, *pair, **size),
            "no things": ask(learn, fresh, sockets, *pair, node(**both).args[0], **size),
            "other width": ask(
                learn, fresh, mini.LoadMiniModel.execute("mini-sdxl").args[:3], *pair, contrast
            ),
        },
    }


if __name__ == "__main__":
    inside.report({"mini": on_mini(), "clip": with_clip()})
