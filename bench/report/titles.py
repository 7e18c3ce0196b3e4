"""Names as people write them: of attacks, and of the methods' checkpoints."""

CLEAN, PGD, CW, AUTOATTACK = "clean", "pgd-20", "cw", "autoattack"
CORE = (PGD, CW, AUTOATTACK)
"""Attacks that have a column in every table."""
TITLES = {
    CLEAN: "Clean",
    PGD: "PGD-20",
    CW: "C&W",
    AUTOATTACK: "AutoAttack",
    "md": "MD",
    "multitargeted": "MultiTargeted",
    "transfer": "Transfer",
    **{f"pgd-{steps}": f"PGD-{steps}" for steps in (10, 50, 100, 500)},
} | {
    f"{attack}-fast{suffix}": f"{title}, fast ({search} search)"
    for attack, title in ((PGD, "PGD-20"), (AUTOATTACK, "AutoAttack"))
    for suffix, search in (("", "bf16"), ("-fp32", "fp32"))
}
"""Attack -> title; an attack that is not listed is its own title."""


def attack_title(label: str) -> str:
    """Return the title of an attack's label, which may end in parameters: `pgd-20 (steps=50)`."""
    name, space, changed = label.partition(" ")
    return f"{TITLES.get(name, name)}{space}{changed}"
