"""What the command line's help says before its options."""

from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter

WHAT_IT_IS = "linetune fine-tunes pretrained transformers without tuning a learning rate, and predicts with them."

EXAMPLES = """examples:
  linetune fit --config linetune:own_data --data.train_file mails.csv --data.text_columns text --data.label_column kind
  linetune predict --config runs/own_data/version_0/config.yaml --ckpt_path best --data.predict_file new.csv"""

PROGRAM = f"{WHAT_IT_IS}\n\n{EXAMPLES}"
FIT = f"Fine-tune a model on labelled texts, in steps that need no learning rate.\n\n{EXAMPLES}"


class ExamplesFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help with the description in the lines in which it was written."""
