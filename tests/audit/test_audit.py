import json

import pytest
import torch

from audited import SIZE, adaptive, network, photographs, small_audit, subject
from shiftproof import ops
from shiftproof.audit.choices import measure_choices
from shiftproof.audit.contenders import Contender, Scenes, build_contenders, find_stride
from shiftproof.audit.measure import (
    Pans,
    answers_at,
    map_shifts,
    measure_distances,
    measure_maps,
    measure_pans,
    measure_strips,
    random_shifts,
)
from shiftproof.audit.pictures import choose_shown
from shiftproof.audit.run import AuditConfig, run_audit
from shiftproof.results.audit import audit_as_dict, load_audit, save_audit


def scenes(count=2, margin=4, room=8):
    generator = torch.Generator().manual_seed(0)
    side = SIZE + margin + room
    return Scenes(torch.rand(count, 3, side, side, generator=generator), SIZE, margin, room)


def plain(module=None):
    return Contender("as it is", "", subject(network() if module is None else module))


def test_frames_are_windows_that_move_with_the_camera():
    found = scenes()
    for dy, dx in [(0, 0), (-4, 4), (3, -2)]:
        frames = found.frames(torch.tensor([[dy, dx]] * 2), margin=False)
        top, left = 4 + 2 + dy, 4 + 2 + dx
        assert torch.equal(frames, found.pixels[:, :, top : top + SIZE, left : left + SIZE])
        larger = found.frames(torch.tensor([[dy, dx]] * 2), margin=True)
        assert torch.equal(larger[:, :, 2:-2, 2:-2], frames)


def test_a_map_holds_what_the_network_says_of_each_window():
    found, contender = scenes(), plain()
    maps = measure_maps(contender, found, [1, None], (-4, 0, 3), "crop")
    for picture, shown in enumerate(maps):
        for row, dy in enumerate((-4, 0, 3)):
            for column, dx in enumerate((-4, 0, 3)):
                window = found.pixels[picture, :, 6 + dy : 6 + dy + SIZE, 6 + dx : 6 + dx + SIZE]
                p = contender.subject.probabilities(window[None])[0]
                assert shown.classes[row][column] == int(p.argmax())
                value = shown.probabilities[row][column]
                assert value is None if picture else value == pytest.approx(float(p[1]), abs=1e-3)


def test_a_circular_map_rolls_the_window():
    found, contender = scenes(), plain()
    shown = measure_maps(contender, found, [0, 0], (-2, 1), "circular")[0]
    window = found.frames(torch.zeros(2, 2, dtype=torch.int64), margin=False)[:1]
    logits = contender.subject.predict(ops.circular_shift(window, (2, -1)))
    assert shown.classes[0][1] == int(logits[0].argmax())
    moved = contender.logits(found.subset([0]), torch.tensor([[-2, 1]]), "circular")
    assert torch.equal(moved, logits)
    assert not torch.allclose(moved, contender.subject.predict(window))


def test_an_invariant_network_has_an_even_circular_map_and_a_plain_one_has_not():
    found = scenes(1)
    even = measure_maps(plain(adaptive()), found, [0], range(-4, 4), "circular")[0]
    assert len({value for row in even.probabilities for value in row}) == 1
    others = [measure_maps(plain(), found, [k], range(-4, 4), "circular")[0] for k in (0, 1, 2)]
    assert any(len({value for row in o.probabilities for value in row}) > 1 for o in others)


def test_a_strip_is_the_middle_row_of_the_map():
    found, contender = scenes(), plain()
    (strip, _) = measure_strips(contender, found, [0, 0], 4)
    (shown, _) = measure_maps(contender, found, [0, 0], tuple(range(-4, 5)), "crop")
    assert strip.shifts == shown.shifts
    assert strip.classes == shown.classes[4]
    assert strip.probabilities == pytest.approx(shown.probabilities[4], abs=1e-3)
    changes = sum(a != b for a, b in zip(strip.classes, strip.classes[1:], strict=False))
    assert strip.num_changes == changes


def test_pans_count_each_change_of_the_answer():
    found, contender = scenes(5), plain()
    pans = measure_pans(contender, found)
    strips = measure_strips(contender, found, [0] * 5, 4)
    assert pans.result.changes.successes == sum(strip.num_changes for strip in strips)
    assert pans.result.changes.n == 5 * 8
    assert pans.changes == tuple(strip.num_changes for strip in strips)
    assert pans.result.pictures.successes == sum(strip.num_changes > 0 for strip in strips)
    assert pans.result.jitter.value == pytest.approx(sum(pans.jitters) / 5)
    assert pans.answers == tuple(frozenset(strip.classes) for strip in strips)


def test_distances_are_those_asked_for_and_paired_with_no_shift():
    for distance in (1, 5):
        shifts = random_shifts(distance, 50)
        assert torch.equal(shifts.abs().amax(1), torch.full((50,), distance))
        assert len(shifts.unique(dim=0)) > 3
    assert torch.equal(random_shifts(3, 9), random_shifts(3, 9))


def test_shares_against_distance_are_counted_image_by_image():
    found, contender = scenes(6), plain()
    distances, accuracy = measure_distances(contender, found, [0] * 6, "crop")
    assert [d.pixels for d in distances] == [1, 2, 4]
    still = answers_at(contender, found, torch.zeros(1, 2, dtype=torch.int64)).classes[0]
    assert accuracy.successes == int((still == 0).sum())
    for distance in distances:
        moved = answers_at(contender, found, random_shifts(distance.pixels, 6)[None]).classes[0]
        assert distance.consistency.successes == int((moved == still).sum())
        assert distance.accuracy.successes == int((moved == 0).sum())


@pytest.mark.parametrize(
    ("count", "step", "shifts"),
    [(8, 1, tuple(range(-4, 4))), (8, 4, (-4, 0)), (32, 16, (-16, 0)), (8, 3, (-3, 0, 3))],
)
def test_maps_are_evenly_spaced_through_zero(count, step, shifts):
    assert map_shifts(count, step) == shifts


def test_the_stride_is_found():
    assert find_stride(subject(network())) == (4, "found by analysis")
    assert find_stride(subject(network(), stride=8))[0] == 8
    stride, reason = find_stride(subject(lambda x: x.mean((2, 3))))
    assert stride is None
    assert "a file cannot be analysed" in reason


def test_remedies_are_built_or_say_why_not():
    _, locked, converted = build_contenders(subject(network()), ("locked", "converted"), 4, "")
    assert locked.lock.stride == (4, 4)
    assert not locked.reason
    assert not converted.reason
    file = subject(lambda x: x.mean((2, 3)))
    _, locked, converted = build_contenders(file, ("locked", "converted"), None, "unknown")
    assert "stride is not known: unknown" in locked.reason
    assert "a file has none" in converted.reason


def test_a_whole_audit():
    result = small_audit()
    assert [n.kind for n in result.networks] == ["as it is", "locked", "converted"]
    as_it_is, locked, converted = result.networks
    assert (result.num_images, result.step, result.stride) == (6, 2, 4)
    assert len(result.pictures) == 2
    assert as_it_is.verdict == "not invariant"
    assert as_it_is.causes[0].module == "0"
    assert as_it_is.missing == {}
    assert {m.motion for m in as_it_is.maps} == {"crop", "circular"}
    assert {m.motion for m in locked.maps} == {"crop"}
    assert "circle" in locked.inapplicable["circular"]
    assert "larger than twice the margin" in locked.missing["radii"]
    assert len(locked.choices) == 2
    assert converted.verdict == "exact"
    assert all(d.consistency.value == 1 for d in converted.distances if d.motion == "circular")
    assert converted.choices
    assert all(0 <= choice.gap <= 1 for choice in converted.choices)
    assert converted.cost.value > 0
    assert as_it_is.cost.value == 1
    assert as_it_is.accuracy.n == 6


def test_an_audit_survives_its_file(tmp_path):
    result = small_audit()
    save_audit(result, tmp_path / "audit.json")
    assert audit_as_dict(load_audit(tmp_path / "audit.json")) == audit_as_dict(result)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 99}'])
def test_what_is_no_audit_is_one_line(tmp_path, text):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(ValueError, match="load_audit: "):
        load_audit(tmp_path / "audit.json")


def test_answers_that_are_nan_are_holes_and_never_stop_the_audit():
    result = small_audit("nan")
    json.dumps(audit_as_dict(result), allow_nan=False)
    as_it_is = result.networks[0]
    classes = [c for m in as_it_is.maps for row in m.classes for c in row]
    assert None in classes


def test_a_network_that_fails_leaves_holes_with_the_reason(tmp_path):
    class Picky(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("two\nlines")

    pictures, found = photographs(tmp_path, count=1)
    config = AuditConfig("pictures", ("locked", "converted"), step=4, shifts=8, stride=4)
    result = run_audit(subject(Picky()), found, pictures.folders, config)
    assert result.networks[0].missing["pan"] == "two lines"
    for network_ in result.networks:
        assert network_.pan is None
        assert not network_.maps
    assert "could not be built" in result.networks[2].missing["maps"]
    assert all(picture.jpeg for picture in result.pictures)


def test_one_grey_picture_without_a_class_is_enough(tmp_path):
    _, found = photographs(tmp_path, ("a",), 1, "L")
    config = AuditConfig("pictures", step=4, shifts=8, stride=4)
    result = run_audit(subject(network()), found, (), config)
    (as_it_is,) = result.networks
    assert as_it_is.accuracy is None
    assert as_it_is.missing["accuracy"] == "the images have no class folders"
    assert as_it_is.pan.jitter.low is None
    assert result.pictures[0].reference == as_it_is.strips[0].classes[4]
    assert any("1 of 1 images are grey" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "--step must be at least 1"),
        ({"shifts": 3}, "--shifts must be an even number"),
        ({"num_maps": 0}, "--maps must be at least 1"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        AuditConfig("pictures", **options)


def test_choices_are_those_of_the_layers():
    found, module = scenes(8), adaptive()
    contender = plain(module)
    choices = measure_choices(contender, found)
    window = found.frames(torch.zeros(8, 2, dtype=torch.int64), margin=False)
    with torch.no_grad():
        maps = module[:2](contender.subject.normalised(window))
    best, second = ops.phase_scores(maps, 2).double().topk(2, 1).values.unbind(1)
    phases = ops.select_phase(maps, 2).tolist()
    assert {1, 2} & set(phases)
    assert [choice.phase for choice in choices] == [(p // 2, p % 2) for p in phases]
    assert [choice.gap for choice in choices] == pytest.approx(((best - second) / best).tolist())
    assert {(choice.stage, choice.stride) for choice in choices} == {("2.select", (2, 2))}


def test_the_choice_of_a_lock_is_where_it_moves_the_window():
    contender = build_contenders(subject(network()), ("locked",), 4, "")[1]
    found = scenes(3)
    choices = measure_choices(contender, found)
    frames = found.frames(torch.zeros(3, 2, dtype=torch.int64), margin=True)
    offsets = contender.lock.offset(frames).tolist()
    assert [choice.phase for choice in choices] == [tuple(offset) for offset in offsets]


def test_pictures_are_shown_that_are_right_in_some_frame_and_change_most():
    answers = tuple(map(frozenset, ({0, 1}, {1}, {2, 0}, {3, 4, 5})))
    pans = Pans(None, (1, 0, 3, 5), (0.1, 0.4, 0.3, 0.2), answers)
    assert choose_shown(pans, [0, 1, 2, 9], 4, 3) == [2, 0, 1]
    assert choose_shown(pans, None, 4, 2) == [3, 2]
    assert choose_shown(None, None, 4, 9) == [0, 1, 2, 3]


def test_a_file_without_layers_is_locked_and_has_holes_elsewhere(tmp_path):
    pictures, found = photographs(tmp_path, count=1)
    module = network()
    file = subject(lambda x: {"logits": module(x)})
    config = AuditConfig("pictures", ("locked", "converted"), step=4, shifts=8, stride=4)
    as_it_is, locked, converted = run_audit(file, found, pictures.folders, config).networks
    assert "followed" in as_it_is.missing["causes"]
    assert as_it_is.pan is not None
    assert locked.pan is not None
    assert locked.choices
    assert converted.pan is None
    assert "a file has none" in converted.description
    for name in ("pan", "maps", "strips", "cost", "accuracy", "choices", "causes"):
        assert "could not be built" in converted.missing[name]


def test_the_step_follows_from_the_time(tmp_path):
    pictures, found = photographs(tmp_path, ("a",), 1)
    steps = {
        seconds: run_audit(
            subject(network()),
            found,
            pictures.folders,
            AuditConfig("pictures", shifts=16, stride=4, seconds=seconds),
        ).step
        for seconds in (0.0, 1000.0)
    }
    assert steps == {0.0: 4, 1000.0: 1}
