"""What NumPy, SciPy and scikit-learn make of the published matrix, for the tests of src/analysis/.

    python scripts/analysis_reference.py          # needs numpy, scipy, scikit-learn; writes tests/fixtures/analysis/published.json

Clusters: the eigenvectors of D^-1/2 A D^-1/2 by numpy.linalg.eigh, scikit-learn's KMeans on their unit rows. Importances:
GradientBoostingRegressor and permutation_importance on the mismatches of components of all pairs.
"""
import csv
import json
import pathlib

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import r2_score, silhouette_samples
from sklearn.model_selection import KFold, cross_val_predict

ROOT = pathlib.Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "src/analysis/published"

rows = list(csv.reader((PUBLISHED / "sat_imagenet69.csv").open()))
names, A = rows[0][1:], np.array([[float(field) for field in row[1:]] for row in rows[1:]])
table = {row[0]: row[1:] for row in csv.reader((PUBLISHED / "components_imagenet69.csv").open())}
columns = table.pop("Model name")
count = len(names)
result = {}

# Clusters.
degrees = A.sum(1)
values, vectors = np.linalg.eigh(A / np.sqrt(degrees[:, None] * degrees[None]))
result["eigenvalues"] = values[::-1].tolist()
embedding = vectors[:, ::-1][:, :10]
embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
kmeans = KMeans(10, n_init=1000, random_state=0).fit(embedding)
labels = kmeans.labels_
result["kmeans"] = {"labels": labels.tolist(), "inertia": kmeans.inertia_}
distances = A.max() - A
np.fill_diagonal(distances, 0)
result["silhouettes"] = silhouette_samples(distances, labels, metric="precomputed").tolist()
result["heights"] = linkage(squareform(distances, checks=False), "average")[:, 2].tolist()
words = sorted({(i, table[name][i]) for name in names for i in range(len(columns))})
counts = np.zeros((10, len(words)))
for name, label in zip(names, labels):
    for i, value in enumerate(table[name]):
        counts[label, words.index((i, value))] += 1
weights = TfidfTransformer().fit_transform(counts).toarray()
result["keywords"] = [
    [[f"{columns[words[i][0]]}={words[i][1]}", row[i]] for i in np.argsort(-row)[:5]] for row in weights
]

# Maps.
centring = np.eye(count) - 1 / count
values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
places = vectors[:, :-3:-1] * np.sqrt(values[:-3:-1])
trust = lambda places: trustworthiness(distances, places, n_neighbors=5, metric="precomputed")
result["mds"] = {"shown": values[:-3:-1].sum() / values.clip(0).sum(), "trustworthiness": trust(places)}
tsne = TSNE(perplexity=(count - 1) / 5, metric="precomputed", init="random", random_state=0)
start = places / np.sqrt((places[:, 0] ** 2).mean()) * 1e-4
tsne.init = start
result["tsne"] = {"trustworthiness": trust(tsne.fit_transform(distances))}

# Importances.
above = np.triu_indices(count, 1)
X = np.array([[table[names[a]][i] != table[names[b]][i] for i in range(len(columns))] for a, b in zip(*above)], float)
y = A[above]
settings = {
    "default": {},
    "paper": dict(n_estimators=500, max_depth=12, min_samples_split=4, learning_rate=0.02),
}
result["importance"] = {}
for name, setting in settings.items():
    make = lambda: GradientBoostingRegressor(random_state=0, **setting)
    folds = [
        r2_score(y, cross_val_predict(make(), X, y, cv=KFold(5, shuffle=True, random_state=seed))) for seed in range(3)
    ]
    model = make().fit(X, y)
    permuted = permutation_importance(model, X, y, n_repeats=100, random_state=0)
    dependence = [partial_dependence(model, X, [i], kind="average", method="brute")["average"][0].tolist() for i in range(len(columns))]
    result["importance"][name] = {
        "out_of_fold": folds,
        "fitted": model.score(X, y),
        "predictions": model.predict(X)[::47].tolist(),
        "permutation": permuted.importances_mean.tolist(),
        "permutation_sd": permuted.importances_std.tolist(),
        "partial_dependence": dependence,
    }

# Correlation of the upper halves of the published matrix and of its component agreement.
other = 1 - X.mean(1)
result["correlation"] = {
    "pearson": pearsonr(y, other)[0], "spearman": spearmanr(y, other)[0], "kendall": kendalltau(y, other)[0],
}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value if isinstance(value, (int, str)) else float(f"{float(value):.15g}")


path = ROOT / "tests/fixtures/analysis/published.json"
path.write_text(json.dumps(rounded(result), separators=(",", ":")) + "\n")
print(f"{path}: {path.stat().st_size} bytes")
