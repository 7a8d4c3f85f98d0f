"""What the authors' attacks do to a tiny network, for the tests of src/attacks/.

    git clone https://github.com/fra31/auto-attack
    python scripts/attack_reference.py --autoattack auto-attack       # needs torch; writes tests/fixtures/attacks/autoattack.json

Everything is computed in f64. The network, logits = V tanh(W x + b) + c on 3 x 8 x 8 pixels with 16 hidden units and 10
classes, and the images come from SplitMix64 (class Stream), which src/random.rs has too. Where an attack draws random numbers,
torch.rand and torch.randn hand out the next numbers of a Stream, so that the tests can draw the same. An iterate is kept as its
product with a fixed vector (fingerprint).
"""
import argparse
import json
import math
import pathlib
import sys

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
SHAPE = (3, 8, 8)
PIXELS = math.prod(SHAPE)
HIDDEN, CLASSES = 16, 10
NORMS = ("Linf", "L2", "L1")
# So that some 40 % of the images withstand.
EPS = {"Linf": 0.02, "L2": 0.2, "L1": 1.2}


def mix(bits):
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


class Stream:
    """SplitMix64 as Random::of(&[seed]) of src/random.rs."""

    def __init__(self, seed):
        self.state = mix((seed + STEP) & MASK)
        self.state = self.draw()

    def draw(self):
        self.state = (self.state + STEP) & MASK
        return mix(self.state)

    def unit(self, *shape):
        """Numbers in [0, 1)."""
        values = [(self.draw() >> 11) / (1 << 53) for _ in range(math.prod(shape))]
        return torch.tensor(values).reshape(shape)

    def normal(self, *shape):
        """Box & Muller: each two numbers in [0, 1) give two."""
        count = math.prod(shape)
        values = []
        for _ in range((count + 1) // 2):
            radius, angle = ((self.draw() >> 11) / (1 << 53) for _ in range(2))
            radius = math.sqrt(-2 * math.log(1 - radius))
            values += [radius * math.cos(2 * math.pi * angle), radius * math.sin(2 * math.pi * angle)]
        return torch.tensor(values[:count]).reshape(shape)


class Network:
    """Called as the attacks call a torch module; tells `observer` what it is called with."""

    def __init__(self):
        stream = Stream(0)
        weights = lambda scale, *shape: scale * (2 * stream.unit(*shape) - 1)
        self.W, self.b = weights(0.15, HIDDEN, PIXELS), weights(0.5, HIDDEN)
        self.V, self.c = weights(1.5, CLASSES, HIDDEN), weights(0.2, CLASSES)
        self.observer = None

    def __call__(self, x):
        if self.observer is not None:
            self.observer(x.detach(), sys._getframe(1))
        return torch.tanh(x.flatten(1) @ self.W.T + self.b) @ self.V.T + self.c


def images(first, count):
    """Uniform pixels, a twelfth of them 0 and a twelfth 1."""
    pixels = torch.stack([Stream(1000 + first + index).unit(*SHAPE) for index in range(count)])
    return (1.2 * pixels - 0.1).clamp(0, 1)


def fingerprint(x):
    return (x.reshape(-1) @ FINGER).item()


class Drawn:
    """torch's random numbers come from a Stream while this is entered.

    A run of L1-APGD in stages projects its start onto the ball twice, and rounding alone decides whether the second time changes
    it; so that it does not, the first ball is smaller by 1e-12 of its radius.
    """

    def __init__(self, seed, normal=True):
        self.stream, self.with_normal, self.is_start = Stream(seed), normal, False

    def __enter__(self):
        from autoattack import autopgd_base

        self.kept = torch.rand, torch.randn, torch.randn_like, autopgd_base.L1_projection
        flat = lambda shape: tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        torch.rand = lambda *shape: self.stream.unit(*flat(shape))
        # Stages of L1-APGD draw a start that they do not use: those take no numbers.
        torch.randn = lambda *shape: self.stream.normal(*flat(shape)) if self.with_normal else self.kept[1](*flat(shape))
        torch.randn_like = self.start
        autopgd_base.L1_projection = self.project

    def start(self, x):
        self.is_start = True
        return self.stream.normal(*x.shape)

    def project(self, x, change, eps):
        eps = eps * (1 - 1e-12) if self.is_start else eps
        self.is_start = False
        return self.kept[3](x, change, eps)

    def __exit__(self, *_):
        from autoattack import autopgd_base

        torch.rand, torch.randn, torch.randn_like, autopgd_base.L1_projection = self.kept


def quiet(*_):
    pass


class Silent:
    log = staticmethod(quiet)


def apgd_trace(network, norm, loss, staged, seed):
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    x = images(seed, 1)
    label = network(x).argmax(1)
    make = APGDAttack_targeted if loss == "dlr-targeted" else APGDAttack
    attack = make(network, norm=norm, eps=EPS[norm], device="cpu", logger=Silent)
    attack.loss = loss
    attack.init_hyperparam(x)
    if loss == "dlr-targeted":
        attack.y_target = network(x).sort(dim=1)[1][:, -2]
    steps = []

    def observe(pixels, frame):
        names = frame.f_locals
        if frame.f_code.co_name != "attack_single_run":
            return
        first = "step_size" not in names
        step = {"pixels": fingerprint(pixels), "step_size": None if first else names["step_size"].item()}
        if norm == "L1":
            step["top"] = None if first else names["topk"].item()
        steps.append(step)

    network.observer = observe
    with Drawn(seed, normal=not staged):
        if staged:
            total = attack.n_iter
            first = math.ceil(0.3 * total)
            eps = [3 * EPS[norm], 2 * EPS[norm], EPS[norm]]
            best, standing, loss_best, fooled = attack.decr_eps_pgd(x, label, eps, [first, first, total - 2 * first])
        else:
            best, standing, loss_best, fooled = attack.attack_single_run(x, label)
    network.observer = None
    columns = {key: [step[key] for step in steps] for key in steps[0]}
    return {
        "norm": norm, "loss": loss, "staged": staged, "seed": seed, "fooled": not standing.item(),
        "best": best.flatten().tolist(), "best_loss": loss_best.item(), "last_fooled": fingerprint(fooled), **columns,
    }


def fab_trace(network, norm, targeted, start, seed):
    from autoattack.fab_pt import FABAttack_PT

    x = images(seed, 1)
    label = network(x).argmax(1)
    attack = FABAttack_PT(network, norm=norm, n_iter=10, eps=EPS[norm], device="cpu")
    attack.target_class = 2
    iterates = []
    name = "get_diff_logits_grads_batch" + ("_targeted" if targeted else "")
    plain = getattr(attack, name)

    def observe(pixels, *labels):
        iterates.append(pixels.flatten().tolist() if len(iterates) in (1, 9) else fingerprint(pixels))
        return plain(pixels, *labels)

    setattr(attack, name, observe)
    with Drawn(seed):
        nearest = attack.attack_single_run(x, label, use_rand_start=start, is_targeted=targeted)
    return {
        "norm": norm, "targeted": targeted, "start": start, "seed": seed, "iterates": iterates,
        "nearest": nearest.flatten().tolist(),
    }


def square_trace(network, norm, seed):
    from autoattack.square import SquareAttack

    x = images(seed, 1)
    label = network(x).argmax(1)
    attack = SquareAttack(network, norm=norm, n_queries=300, eps=EPS[norm], resc_schedule=False, device="cpu")
    proposed, sizes = [], []

    def observe(pixels, frame):
        names = frame.f_back.f_locals
        if frame.f_code.co_name == "margin_and_loss":
            proposed.append(fingerprint(pixels))
            sizes.append(names["s"] if "i_iter" in names else None)

    network.observer = observe
    attack.init_hyperparam(x)
    with Drawn(seed):
        queries, best = attack.attack_single_run(x, label)
    network.observer = None
    return {
        "norm": norm, "seed": seed, "queries": int(queries.item()), "proposed": proposed, "sizes": sizes,
        "best": best.flatten().tolist(),
    }


def square_sizes(norm, side, queries):
    """The steps from which a window has another side, on a network that is never fooled."""
    from autoattack.square import SquareAttack

    sizes = []

    def predict(x):
        names = sys._getframe(2).f_locals
        if "i_iter" in names and (not sizes or sizes[-1][1] != names["s"]):
            sizes.append([names["i_iter"], names["s"]])
        return torch.tensor([[1.0, 0.0]])

    attack = SquareAttack(predict, norm=norm, n_queries=queries, eps=EPS[norm], resc_schedule=False, device="cpu")
    x = images(0, 1)[:, :, :1, :1].expand(1, 3, side, side).contiguous()
    attack.init_hyperparam(x)
    attack.attack_single_run(x, torch.tensor([0]))
    return {"norm": norm, "side": side, "queries": queries, "sizes": sizes}


def square_shares():
    from autoattack.square import SquareAttack

    attack = SquareAttack(None, eps=1, resc_schedule=False)
    rescaled = SquareAttack(None, eps=1, n_queries=2500, resc_schedule=True)
    steps = [0, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001]
    return [[step, attack.p_selection(step), rescaled.p_selection(step)] for step in steps]


def projections():
    """Onto the L1 ball and onto hyperplanes, both within [0, 1], of random points."""
    from autoattack import fab_projections
    from autoattack.autopgd_base import L1_projection

    result = {"projections_ball": [], "projections_planes": []}
    for case in range(12):
        stream = Stream(5000 + case)
        point = (1.2 * stream.unit(1, 24) - 0.1).clamp(0, 1)
        change = (0.2 + 0.3 * (case % 4)) * stream.normal(1, 24)
        eps = [0.3, 1.0, 3.0, 20.0][case // 3]
        correction = L1_projection(point, change, eps)
        result["projections_ball"].append({"seed": 5000 + case, "eps": eps, "correction": correction.flatten().tolist()})
        weights = stream.normal(1, 24)
        weights[0, case % 24] = 0
        weights[0, (case + 7) % 24] = 1e-10
        # Some planes are near, some at the point, some out of reach.
        offset = (weights * point).sum(1) + [0.05, -0.4, 2.0, 0.0, 50.0, -50.0][case % 6]
        for norm in NORMS:
            move = getattr(fab_projections, f"projection_{norm.lower()}")(point, weights, offset)
            result["projections_planes"].append({
                "norm": norm, "seed": 5000 + case, "case": case, "offset": offset.item(), "move": move.flatten().tolist(),
            })
    return result


def perturbed(network, norm, name, seed):
    """One image by one of AutoAttack's parts, restarts and target classes included."""
    from autoattack import AutoAttack

    x = images(seed, 1)
    label = network(x).argmax(1)
    # Few proposals want a larger ball.
    eps = EPS[norm] * (2 if name == "square" and norm != "L1" else 1)
    whole = AutoAttack(network, norm=norm, eps=eps, device="cpu", verbose=False, seed=0)
    attack = {"apgd-ce": whole.apgd, "apgd-t": whole.apgd_targeted, "fab-t": whole.fab, "square": whole.square}[name]
    attack.targeted = name == "fab-t"
    attack.logger = Silent
    if name == "square":
        attack.n_queries = 300
    with Drawn(seed, normal=not (norm == "L1" and name.startswith("apgd"))):
        adversarial = attack.perturb(x.clone(), label.clone())
    fooled = (network(adversarial).argmax(1) != label).item()
    return {
        "norm": norm, "attack": name, "eps": eps, "seed": seed, "fooled": fooled, "pixels": fingerprint(adversarial),
    }


def standing(network, norm, count):
    """How many of `count` images withstand each part alone, and all; the mean over five seeds."""
    from autoattack import AutoAttack

    x = images(10_000, count)
    label = network(x).argmax(1)
    left = lambda adversarial: int((network(adversarial).argmax(1) == label).sum())
    runs = []
    for seed in range(5):
        attack = AutoAttack(network, norm=norm, eps=EPS[norm], device="cpu", verbose=False, seed=seed)
        run = {name: left(x) for name, x in attack.run_standard_evaluation_individual(x, label, bs=count).items()}
        attack.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]
        runs.append({**run, "autoattack": left(attack.run_standard_evaluation(x, label, bs=count))})
    print(norm, runs)
    return {"norm": norm, "images": count, "standing": {name: sum(run[name] for run in runs) / 5 for name in runs[0]}}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.15g}") if isinstance(value, float) else value


def write(name, result):
    path = ROOT / "tests/fixtures/attacks" / name
    path.write_text(json.dumps(rounded(result), separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


def autoattack(checkout):
    sys.path.insert(0, str(checkout))
    # The authors' code turns everything to f32.
    torch.Tensor.float = torch.Tensor.double
    network = Network()
    runs = [(norm, loss, False) for norm in NORMS for loss in ("ce", "dlr", "dlr-targeted")]
    runs += [("L1", loss, True) for loss in ("ce", "dlr-targeted")]
    parts = ("apgd-ce", "apgd-t", "fab-t", "square")
    write("autoattack.json", {
        "eps": EPS,
        "clean": [network(images(seed, 1)).flatten().tolist() for seed in range(3)],
        "apgd": [apgd_trace(network, *run, 20 + index) for index, run in enumerate(runs)],
        "fab": [
            fab_trace(network, norm, targeted, start, 40 + index)
            for index, (norm, targeted, start) in enumerate(
                (norm, targeted, start) for norm in NORMS for targeted, start in ((False, False), (True, True))
            )
        ],
        "square": [square_trace(network, norm, 80) for norm in NORMS],
        "square_sizes": [square_sizes("Linf", 224, 5000), square_sizes("L2", 64, 5000), square_sizes("L1", 8, 5000)],
        "square_shares": square_shares(),
        **projections(),
        "perturbed": [perturbed(network, norm, name, seed) for norm in NORMS for name in parts for seed in range(80, 86)],
        "standing": [standing(network, norm, 200) for norm in NORMS],
    })


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoattack", type=pathlib.Path, help="a checkout of https://github.com/fra31/auto-attack")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    FINGER = Stream(2).unit(PIXELS)
    if arguments.autoattack is not None:
        autoattack(arguments.autoattack)
