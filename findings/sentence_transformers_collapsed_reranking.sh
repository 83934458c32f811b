#!/usr/bin/env bash
# sentence-transformers 6.2.0: RerankingEvaluator gives a model that has collapsed, whose embeddings are all the same, an MRR@10 of 1, the
# best there is. It lists the positives before the negatives and sorts by score; equal scores stay in that order. So does
# whatever makes scores equal: bfloat16, texts that are cut to the same tokens, duplicates among the candidates. InformationRetrievalEvaluator
# gives equal scores to the texts in the order of the corpus, so that a corpus which begins with the relevant ones is ranked without an
# error too. The MAP of the same evaluator, which takes ties into account, is that of chance.
# Seen, 20 queries with one positive and nine negatives: MRR@10 1.00, MAP 0.10 for a collapsed model, 0.29 and 0.29 for random embeddings;
# 20 queries to whom the first of 40 texts is relevant: accuracy@1 1.00 for a collapsed model, 0.00 for random embeddings.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "sentence-transformers==6.2.0" "transformers==5.24.0" \
    "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.evaluation import InformationRetrievalEvaluator, RerankingEvaluator
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{number}" for number in range(200)]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
EMBEDDINGS = {"random": torch.randn(200, 16), "collapsed": torch.ones(200, 16)}
RERANKED = [
    {"query": WORDS[row], "positive": [WORDS[row + 50]], "negative": [WORDS[(row + 60 + other) % 200] for other in range(9)]}
    for row in range(20)
]
QUERIES = {str(row): WORDS[row + 100] for row in range(20)}
CORPUS = {str(row): WORDS[row] for row in range(40)}

found = {}
for name, embeddings in EMBEDDINGS.items():
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=embeddings.numpy())], device="cpu")
    reranked = RerankingEvaluator(RERANKED)(model)
    retrieved = InformationRetrievalEvaluator(QUERIES, CORPUS, {query: {"0"} for query in QUERIES})(model)
    found[name] = [reranked["mrr@10"], reranked["map"], retrieved["cosine_accuracy@1"]]
    print(f"{name} embeddings: MRR@10 {found[name][0]:.2f}, MAP {found[name][1]:.2f}; accuracy@1 of a retrieval {found[name][2]:.2f}")
assert found["collapsed"][0] == found["collapsed"][2] == 1.0 and found["collapsed"][1] < 0.15, "the behaviour has changed"
assert found["random"][0] < 0.5 and found["random"][2] < 0.5, "the behaviour has changed"
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
