"""What the papers report, to stand beside what came out (arXiv 2402.10891, 2405.19787)."""

# By the axis that it is about; "rules" is the main experiment.
CLAIMS = {
    "rules": "Paper (GPT-2 of 6 layers, 10⁶ rows, strings of 50 with patterns of 20): below 300 "
    "rules nothing generalizes, from 1,000 on it always does; the transition is at 400 to 500.",
    "samples": "Paper: below 300 rules nothing generalizes, however many samples a rule; from "
    "1,000 on it always does, even with few.",
    "pool": "Paper: the budget of rows is fixed, rules × samples = 10⁶.",
    "no_ops": "Paper: with 10 to 50 % no-ops the transition hardly moves, 400 against 500 rules; "
    "the average over rows with and without an application alone can look like partial "
    "generalization.",
    "families": "Paper: trained on letters repeated three times and more, tested on fewer and on "
    "free rules: one family or two fail, three work; 500 rules or fewer never get there.",
    "exponent": "Paper: with 10,000 rules and more the shares hardly matter; with 1,000 accuracy "
    "drops toward the peaked end, from α = 0.2 on.",
    "occurrences": "Paper: the more often x stands in training strings the better, and a mix is "
    "best; in the table below.",
    "encrypted": "Paper (Llama-2-7B with LoRA, 40 % no-ops): with few rules only no-ops are "
    "solved.",
    "list_length": "Paper: lists of rules are described as Markov algorithms; no experiment was "
    "found.",
    "lengths": "Paper: strings of 50, 100 and 200 with patterns of 20, 40 and 50.",
}
# Table 1 of 2402.10891: occurrences in training → I → accuracy on unseen rules.
OCCURRENCES = {
    "1": {2000: 0.71, 1000: 0.41, 500: 0.0, 200: 0.0},
    "10": {2000: 0.88, 1000: 0.71, 500: 0.0, 200: 0.0},
    "20": {2000: 0.73, 1000: 0.28, 500: 0.07, 200: 0.0},
    "1+5+10+15+20": {2000: 0.94, 1000: 0.94, 500: 0.62, 200: 0.0},
}
# Where the papers' transition lies, in rules.
TRANSITION = (400, 500)
