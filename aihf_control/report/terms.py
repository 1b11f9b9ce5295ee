"""Explanations of the terms in headers of tables, shown as tool tips."""

from __future__ import annotations

TERMS = {
    "method": "Name of the method in the experiment.",
    "IQM": "Interquartile mean: the mean without the lowest and the highest quarter of the runs.",
    "mean": "Mean over all runs of all environments.",
    "median": "Median over environments of the mean over runs.",
    "optimality gap": "Mean shortfall of the scores below 1; a score above 1 counts as 1. Lower is better.",
    "late": "IQM over runs of the mean of each run's last five evaluations.",
    "above demonstrations": "Share of the runs that return more than the demonstrations they were shown.",
    "n": "Number of runs (seeds) per environment.",
    "diverged": "Number of runs whose numbers became infinite or NaN; they count as a score of 0.",
    "env steps": "Largest number of steps that a run took in the environment.",
    "labels": "Largest number of comparisons that a run was given.",
    "score": "0 is random actions, 1 the expert; of the last policy.",
    "return": "Sum of the true rewards of an episode.",
    "pair accuracy": "Share of held-out comparisons that the learned reward orders correctly; a tie counts half.",
    "rank correlation": "Spearman's correlation of learned and true returns of held-out episodes.",
    "worst return": "Mean return of the group of dynamics in which it is lowest.",
    "worst pair accuracy": "Accuracy on the held-out comparisons of the group in which it is lowest.",
    "labels right": "Share of a run's labels that name the better segment.",
    "claim": "What a paper says, as a comparison of two methods.",
    "better": "Method that is claimed to be better.",
    "than": "Method that it is compared with.",
    "kind": "`as good`: the intervals overlap, or the first is above; `not worse`: the difference is above -margin.",
    "where": "Values of the swept factors.",
    "measure": "Number of a run that is compared.",
    "verdict": "Whether the claim holds in these runs; the rule is below the table.",
    "P": "Probability that a run of the first method is above a run of the second in the same environment.",
    "value": "IQM of the measure of the method that is claimed to be better.",
    "value of the other": "IQM of the measure of the method that it is compared with.",
    "gain": "IQM over seeds of the difference between the two runs with the same seed.",
    "gain in the control": "The same in the control, for instance with labels at random.",
    "missing": "Cells without a result.",
    "runs": "Cells that the row's numbers come from.",
    "cell": "Folder of the run: hash of its settings and data, then of the code that ran.",
    "overvalued": "Seeds whose critics claim more than any policy can earn.",
    "products": "Number type of the matrix products, and device.",
    "commit": "Commit of the code.",
    "versions": "Set of versions, listed below by letter.",
    "environments": "Number of environments that the score is over.",
    "command": "Command that runs the experiment.",
    "results": "Folder of the runs.",
    "data": "Digest of the dataset.",
}


def explain(header: str) -> str:
    """Return the explanation of a header, or an empty text."""
    if header.startswith("P(better than "):
        other = header.removeprefix("P(better than ").removesuffix(")")
        return f"Probability that a run of the method scores above a run of {other} in the same environment."
    return TERMS.get(header, "")
