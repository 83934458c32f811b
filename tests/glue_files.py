"""Small files in GLUE's official layout, quirks included, for tests that read them."""

from __future__ import annotations

from pathlib import Path

# Per task: file name to content. The texts hold what trips readers up: quotation marks, Unicode, a line separator and
# a form feed inside a sentence, trailing blanks, windows line ends, a missing last line end.
FILES: dict[str, dict[str, str]] = {
    "CoLA": {
        "train.tsv": "gj04\t1\t\tThe sailors rode the breeze.\n"
        'gj04\t0\t*\tThe "more does Bill smoke.\nb_83\t1\t\tHe left.',
        "dev.tsv": "gj04\t1\t\tThe weights made the rope stretch.\ngj04\t0\t*\tThe more you would want.\n",
        "test.tsv": "index\tsentence\n0\tBill whistled past the house.\n1\tThe car honked its way down.\n",
    },
    "SST-2": {
        "train.tsv": 'sentence\tlabel\nhide new secretions \t0\na "fine film \t1\ncaf\u00e9 \u2028 noir\x0c\t1\n',
        "dev.tsv": "sentence\tlabel\nit 's a charming journey . \t1\nbleak \t0\n",
        "test.tsv": "index\tsentence\n0\tuneasy mishmash .\n1\tthis film\n2\tfun\n",
    },
    "MRPC": {
        "train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t702876\t702977\tHe said , " no " .\t" No , he said .\n'
        "0\t2108705\t2108831\tThey bought it .\tThey sold it .",
        "dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tA b .\tB a .\n0\t3\t4\tC d .\tE f .\n",
        "test.tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tG h .\tH g .\n",
    },
    "QQP": {
        "train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "133273\t213221\t213222\tHow is life?\tWhat is life like?\t1\n"
        "402555\t536040\t536041\tHow does it\n"
        'work?\tWhat is "it"?\t0\n'
        "360472\t364011\t490273\tWhy?\tWhy not?\t0\n",
        "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWho?\tWhom?\t1\n3\t4\t5\tA?\tB?\t0\n",
        "test.tsv": "id\tquestion1\tquestion2\n0\tWould it?\tCould it?\n1\tWhen?\tWhere?\n",
    },
    "STS-B": {
        name: "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
        + ("\tscore\n" if name != "test.tsv" else "\n")
        + "".join(
            f'{row}\tmain-captions\tMSRvid\t2012test\t000{row}\tnone\tnone\tA plane.\tAn "air plane.'
            + (f"\t{score}\n" if name != "test.tsv" else "\n")
            for row, score in enumerate(["5.000", "3.800", "0.000"])
        )
        for name in ("train.tsv", "dev.tsv", "test.tsv")
    },
    "MNLI": {
        name: "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2"
        + "".join(f"\tlabel{number}" for number in range(1, annotators + 1))
        + ("\tgold_label\n" if annotators else "\n")
        + "".join(
            f"{row}\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)"
            f"\tPremise {row} {name}\tHypothesis {row}"
            # The annotators disagree with the gold label, so that reading the wrong column shows.
            + "".join("\tneutral" for _ in range(annotators))
            + (f"\t{label}\n" if annotators else "\n")
            for row, label in enumerate(["contradiction", "entailment", "neutral"])
        )
        for name, annotators in (
            ("train.tsv", 1),
            ("dev_matched.tsv", 5),
            ("dev_mismatched.tsv", 5),
            ("test_matched.tsv", 0),
            ("test_mismatched.tsv", 0),
        )
    },
    "QNLI": {
        "train.tsv": "index\tquestion\tsentence\tlabel\r\n"
        "0\tWhen did it end?\tIt ended in 1990.\tentailment\r\n"
        "1\tWho won?\tIt rained.\tnot_entailment\r\n",
        "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhere?\tHere.\tentailment\n1\tWho?\tThere.\tnot_entailment\n",
        "test.tsv": "index\tquestion\tsentence\n0\tWhat?\tThat.\n",
    },
    "RTE": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tNo weapons.\tWeapons.\tnot_entailment\n"
        "1\tA place of sorrow.\tSorrow.\tentailment\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tDana died.\tDana lives.\tnot_entailment\n",
        "test.tsv": "index\tsentence1\tsentence2\n0\tMangla was summoned.\tShe was.\n1\tAuthorities.\tAuthority.\n",
    },
    "WNLI": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tI stuck a pin.\tThe carrot had a hole.\t1\n"
        "1\tJohn could not see.\tJohn is short.\t0\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tThe drain.\tIt has to be cleaned.\t0\n",
        "test.tsv": "index\tsentence1\tsentence2\n0\tMaude and Dora.\tThe trains.\n",
    },
    "diagnostic": {
        "diagnostic.tsv": "index\tsentence1\tsentence2\n0\tThe cat sat.\tThe cat did not sit.\n1\tA b.\tB.\n",
    },
}
# The diagnostic set as its authors published it later, with labels; not part of FILES, since it takes precedence.
DIAGNOSTIC_FULL = (
    "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n"
    "\t\tNegation\t\tArtificial\tThe cat sat.\tThe cat did not sit.\tcontradiction\n"
    "\t\t\t\tArtificial\tA b.\tB.\tentailment\n"
)


def write_glue_folder(root: Path) -> Path:
    """Writes ``FILES`` under ``root`` and returns ``root``."""
    for folder, files in FILES.items():
        (root / folder).mkdir(parents=True)
        for name, content in files.items():
            (root / folder / name).write_bytes(content.encode("utf-8"))
    return root


def write_sst2(root: Path, count: int) -> Path:
    """Writes SST-2's files with so many sentences to train on, and to evaluate on, under ``root``; returns ``root``."""
    (root / "SST-2").mkdir(parents=True)
    rows = [f"a sentence that is {'good' if i % 2 else 'bad'} {'indeed ' * (i % 5)}\t{i % 2}" for i in range(count)]
    for name in ("train.tsv", "dev.tsv"):
        (root / "SST-2" / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (root / "SST-2" / "test.tsv").write_text("index\tsentence\n0\tfine\n")
    return root
