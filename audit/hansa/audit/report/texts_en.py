"""The report's words in English. Every key is in each language; a test compares them."""

from typing import Final

TEXTS: Final[dict[str, str]] = {
    "lang": "en",
    "title": "Privacy report for run {run}",
    "title.unreadable": "Privacy report for a pack that cannot be read",
    "subtitle": "Differential privacy of a federated training run: what was claimed, how it was "
    "done, what was checked, and what is not protected.",
    "contents": "Contents",
    "tier": "Registry tier {tier}",
    "made": "Made {when} (UTC) by {tool}. All figures come from the pack.",
    "separator": "; ",
    "verdict.passed": "Verification passed",
    "verdict.passed.text": "All {count} checks that could be made on the evidence have passed. "
    "{absent} could not be made, because the evidence for them is not in the pack or was not "
    "given; they are listed in section {section}.",
    "verdict.failed": "VERIFICATION FAILED: this report supports no claim",
    "verdict.failed.text": "The evidence contradicts itself or what it should show. The first "
    "fault is: {fault}",
    "verdict.failed.numbers": "Not verified. The figures below are what the pack states; do not "
    "rely on them.",
    "verdict.unpinned": "The trust anchors came with the pack itself ({what}). Obtain them from "
    "another source and repeat the verification with them, or this report rests on the operator's "
    "word.",
    "anchor.root": "root of the release signatures",
    "anchor.plan": "the operator's plan key",
    "anchor.checkpoint": "no checkpoint of the log from a third party",
    "yes": "yes",
    "no": "no",
    "none": "none",
    "unknown": "not stated",
    "not.run": "not run",
    "s.identity": "What was released",
    "s.claim": "The claim",
    "s.unit": "Unit of privacy",
    "s.relation": "Neighbouring relation",
    "s.scope": "Scope",
    "s.mechanism": "Mechanism",
    "s.accounting": "Accounting",
    "s.code": "Code identity",
    "s.randomness": "Randomness",
    "s.trust": "Trust assumptions",
    "s.open": "What is not protected",
    "s.tests": "Tests",
    "s.utility": "Usefulness and bias",
    "s.budget": "Budget policy",
    "s.incidents": "Incidents",
    "s.merchants": "Merchants",
    "s.verification": "Result of the verification",
    "s.glossary": "Glossary",
    "identity.use": "Use",
    "identity.use.text": "Search and recommendation in shops. Each merchant fine-tunes a public "
    "model on its own premises; only noised updates leave it and are averaged.",
    "identity.curator": "Who is accountable",
    "identity.curator.text": "The operator that holds the plan key {key}; for the data of each "
    "shop, its merchant.",
    "identity.run": "Run",
    "identity.plan": "Plan (SHA-256)",
    "identity.release": "Release",
    "identity.release.none": "The run released no model.",
    "identity.base": "Public base model",
    "identity.aggregate": "Aggregate (SHA-256)",
    "identity.statement": "Privacy statement (SHA-256)",
    "identity.statement.text": "{count} contributors, named by digests; signed with the release",
    "identity.statement.none": "The release has none: it was made before releases had one. Newer "
    "clients do not load it.",
    "identity.pack": "Evidence pack (SHA-256)",
    "identity.period": "Run began, ended (UTC)",
    "identity.goes.on": "goes on",
    "identity.parent": "Goes on from release",
    "identity.restores": "Serves again the files of release",
    "claim.text": "For each {unit}, everything that this run and all earlier runs booked in the "
    "same ledgers let out of a merchant is ({epsilon}, {delta})-differentially private: "
    "epsilon = {epsilon}, delta = {delta}.",
    "claim.release": "The figure is the one that the signed release states: the largest over all "
    "merchants, rounded up, at the end of the run. Section {section} has each merchant's own.",
    "claim.no.release": "Nothing was released as a model. The figure is the largest over the "
    "merchants for this run alone, rounded up.",
    "claim.unsupported": "The pack claims epsilon = {epsilon} at delta = {delta} for each {unit}. "
    "The evidence does not support that, so nothing follows from it.",
    "claim.none": "No guarantee is claimed: the run is a foreign app's, or its plan is not valid.",
    "claim.plain": "In plain words",
    "claim.plain.text": "Imagine an attacker who knows everything about the data except whether "
    "one particular {unit} is in them, and who sees everything that was let out. The guarantee "
    "limits what such an attacker can find out, whatever method it uses:",
    "claim.odds": 'The odds of "is in the data" against "is not" can grow by a factor of at '
    "most {odds} (but for delta).",
    "claim.guess": "Where half of the persons asked about are in the data, at most {share} of its "
    "guesses are right. Guessing blindly gets 50 %.",
    "claim.found": "If it may be wrong about {alarms} of the persons who are not in the data, it "
    "finds at most {share} of those who are.",
    "claim.delta": "Delta is the probability, at most {delta} for each {unit}, that this limit "
    "does not hold.",
    "claim.band.strong": "An epsilon of at most 1 is commonly called a strong guarantee.",
    "claim.band.reasonable": "An epsilon between 1 and 10 is common for trained models. The limit "
    "above is for the worst case; where epsilon is several units it holds an attacker back little "
    "on paper. What an attack really reaches must be measured: see section {section}.",
    "claim.band.weak": "An epsilon above 10 limits a worst-case attacker hardly at all. Do not "
    "call this a strong guarantee.",
    "claim.bound": "These are upper bounds. They are not estimates of what an attacker achieves.",
    "unit.word.shopper": "shopper",
    "unit.word.record": "record",
    "unit.shopper": "One shopper at one merchant: everything that this merchant's data say about "
    "that shopper's identifier. A person with two identifiers is two units.",
    "unit.record": "One single purchase. A shopper with several purchases is protected less; the "
    "table shows how much.",
    "unit.many": "A person who shops at several merchants pays at each of them, and nobody can "
    "know that it is the same person. For the whole plan:",
    "unit.many.shops": "merchants of the person",
    "unit.many.epsilon": "epsilon, together",
    "relation.text": "Add or remove one: two data sets are neighbours if one is the other without "
    "one {unit}. The size of a shop's data is not assumed to be public.",
    "scope.covers": "Counted in epsilon",
    "cover.trained-updates": "All updates that training let out, in all rounds, also of rounds "
    "that failed and of answers that came too late.",
    "cover.earlier-runs-of-its-merchants": "Everything that the same ledgers booked before, in "
    "other runs.",
    "cover.quality-report": "The noised report on the released model's quality.",
    "scope.not.covered": "Not counted, because it is computed without private data or only from "
    "what was noised before: averaging, compression, signing, and the choice of the released "
    "model. Foreign apps are not counted either; they are listed under incidents.",
    "scope.period": "Entries of the ledgers from {first} to {last}.",
    "scope.rounds": "{aggregated} of {rounds} rounds made an aggregate.",
    "mech.text": "Differentially private stochastic gradient descent. A step draws units at "
    "random, clips each one's gradient in length, adds Gaussian noise to the sum and divides by a "
    "public constant. All constants are public, signed before the run, and do not depend on "
    "anybody's data.",
    "mech.sampler": "Sampling",
    "mech.sampler.poisson": "Poisson: each unit by itself, with the sampling rate",
    "mech.sampler.turns": "units take turns in groups; nothing is gained from sampling",
    "mech.sampling_rate": "Sampling rate (q)",
    "mech.expected_shoppers": "Public divisor",
    "mech.records_per_shopper": "Records of a shopper in a step, at most",
    "mech.clip_norm": "Clip norm (C)",
    "mech.noise_multiplier": "Noise multiplier (sigma)",
    "mech.steps": "Steps (T)",
    "mech.steps.text": "{steps} in a round, {rounds} rounds planned",
    "mech.noise": "Where the noise is made",
    "mech.noise.local": "by each merchant alone, all of it",
    "mech.noise.distributed": "in shares by the merchants; {honest} honest shares make it all up",
    "mech.bands": "Bands of correlated noise",
    "mech.report_noise_multiplier": "Noise multiplier of the quality report",
    "mech.dropped": "Gradients that are not finite",
    "mech.dropped.text": "count as zero; an empty sample makes a step of noise alone",
    "acc.text": "A ledger books what was released and by which mechanism; what that cost is "
    "computed anew by everybody. This report recomputed each merchant's epsilon from its signed "
    "ledger, with accountants that share no code.",
    "acc.accountant": "Accountant",
    "acc.version": "Version",
    "acc.role": "Role",
    "acc.google-pld": "reference: privacy loss distributions, rounded to an upper bound",
    "acc.google-rdp": "coarse upper bound: Renyi differential privacy",
    "acc.hansa-prv": "independent check by the auditor: privacy loss random variable",
    "acc.agree": "Reference and independent figure must lie within 0.015 of each other, and below "
    "the coarse bound. The smallest possible figure is not claimed: all are rounded up.",
    "code.text": "Code is named by one digest over all sources of the installation. Who runs it "
    "says so itself; that an installation really runs what it states is a trust assumption.",
    "code.role": "Role",
    "code.role.server": "server",
    "code.role.client": "merchant",
    "code.software": "Version",
    "code.digest": "Digest of the sources",
    "code.none": "The evidence states no code.",
    "random.text": "Sampling and noise come from the operating system's source of randomness. "
    "Noise is an AES-256-CTR key stream under a fresh key, turned into Gaussians in 64 bits "
    "(Box-Muller); each value is the sum of four draws, divided by two, against attacks on the low "
    "bits of floating-point numbers. No seed can be set, and no key is kept.",
    "random.limit": "The noise is a rounded continuous Gaussian. The mitigation is no proof.",
    "random.distributed": "Distributed noise is a discrete Gaussian in integers, so that it adds "
    "up exactly under secure aggregation.",
    "trust.raw": "Raw data: seen by each merchant alone. They never leave its premises.",
    "trust.updates.single": "Updates: the server sees each merchant's noised update singly.",
    "trust.updates.sum": "Updates: the server sees only their sum (secure aggregation), as long as "
    "no more merchants work with it than the protocol bears.",
    "trust.noise.local": "For the guarantee nobody but the shopper's own merchant is trusted: "
    "clipping and noise happen there.",
    "trust.noise.distributed": "For the guarantee {honest} merchants of every round must be "
    "honest; up to {colluders} may work with the server.",
    "trust.server": "The server is trusted to average honestly. Updates, aggregates and release "
    "are named by digest; the mean itself cannot be recomputed from a pack.",
    "trust.client": "That a merchant's software adds the noise that its ledger books cannot be "
    "seen from outside. Code digests, contracts and the empirical audit are what there is.",
    "trust.log": "The operator's log is complete as far as merchants and auditors have compared "
    "its checkpoints: {witnessed} from elsewhere were compared for this report.",
    "open.membership": "Which merchants take part, and in which rounds.",
    "open.timing": "When tasks were reserved and committed, and how long they took.",
    "open.refusals": "That a task failed, and the kind of error.",
    "open.catalogue": "What is in a merchant's catalogue.",
    "open.merchant-as-a-whole": "A merchant as a whole. The noise is made for one unit; what is "
    "true of all shoppers of a merchant together may show.",
    "open.shopper-of-several-merchants": "A person at several merchants has less protection than "
    "the headline says; see section {unit}.",
    "open.facts-true-of-all": "Facts that would be learnt whether or not a person is in the data, "
    "such as that two items are bought together.",
    "open.shopper-behind-records": "A shopper behind its records: with the unit record only a "
    "single purchase is hidden.",
    "open.collusion-beyond-the-plan": "Anything, if more merchants work with the server than the "
    "plan bears.",
    "test.code": "The source distribution comes with tests of the mechanism: that one shopper "
    "never moves a clipped sum by more than the clip norm, that clipped sums equal those of a "
    "plain loop, that the noise has its standard deviation, and that no public constant moves "
    "when a shopper is added. Whoever has the sources that section {section} names by digest can "
    "repeat them.",
    "test.own": "The server checked before it released",
    "test.own.none": "No check of the server's own is on record.",
    "test.ledgers-are-whole": "each ledger is whole, in order and signed",
    "test.updates-are-booked": "each update was reserved at the plan's cost, and committed byte "
    "for byte",
    "test.caps-are-kept": "no ledger ever exceeded its cap",
    "test.empirical": "Empirical audit (canaries)",
    "test.empirical.none": "Not run. Nobody attacked this plan's training to see whether it keeps "
    "its promise; the guarantee rests on the proof, the tests of the code and the ledgers.",
    "test.empirical.passed": "Passed: in a test setting that claims epsilon {claimed}, the attack "
    "showed at least {bound} (with confidence {confidence}). A bound above the claim would have "
    "proved a fault; one below it proves nothing but that this attack found none.",
    "test.empirical.failed": "FAILED: in a test setting that claims epsilon {claimed}, the attack "
    "showed at least {bound} (with confidence {confidence}), or a direct check failed.",
    "test.mia": "Membership inference on made-up shoppers (a smoke test, no evidence): area under "
    "the curve {auc} (95 % interval {low} to {high}; 0.5 is blind guessing).",
    "test.mia.none": "Membership inference: not run.",
    "utility.text": "The compressed model is compared with the uncompressed one before a release; "
    "figures by group of shoppers are not collected, since counts by group would themselves be "
    "releases. Bias between groups has therefore not been measured. Noise hits rare items and "
    "small shops hardest.",
    "utility.figure": "Figure of the release gate",
    "utility.value": "Value",
    "fidelity.mean_cosine": "mean cosine similarity of embeddings to the uncompressed model",
    "fidelity.p1_cosine": "cosine similarity of embeddings, lowest percentile",
    "fidelity.ndcg_loss": "loss of nDCG@10 against the uncompressed model's ranking",
    "fidelity.size_bytes": "size (bytes)",
    "fidelity.teacher_size_bytes": "size of the uncompressed model (bytes)",
    "fidelity.texts": "texts compared",
    "budget.text": "Each merchant sets its cap on epsilon when it joins and can only raise it, in "
    "its own signed ledger. Its own client refuses a task that would exceed a cap before any data "
    "are read; the server refuses it too. What was reserved stays spent, whatever became of the "
    "task. When the cap is reached the merchant takes no further part; it goes on serving.",
    "incident.none": "None is on record.",
    "incident.what": "What",
    "incident.who": "Merchant",
    "incident.where": "Where",
    "incident.detail": "Details",
    "incident.more": "and {count} more; the JSON file has them all.",
    "incident.round-without-aggregate": "round without an aggregate of its own",
    "incident.answer-not-counted": "answers that did not count (how often, rule)",
    "incident.cap-raised": "cap raised (ledger entry, new cap)",
    "incident.refund": "reservation taken back before data were read (ledger entry, task)",
    "incident.refused-over-cap": "task refused: it would have exceeded a cap (needed > cap)",
    "incident.outside-epsilon": "released by a foreign app, not counted in epsilon",
    "incident.spent-without-answer": "paid for and never answered (how many, first task)",
    "incident.failed-check": "check of this verification that failed",
    "m.merchant": "Merchant",
    "m.cap": "Cap",
    "m.pld": "Epsilon (reference)",
    "m.prv": "Epsilon (independent)",
    "m.rdp": "Coarse bound",
    "m.run": "This run",
    "m.delta": "Delta",
    "m.rounds": "Rounds with an update",
    "m.booked": "Reserved / committed / declared",
    "m.contract": "Contract",
    "m.text": "From each merchant's own signed ledger: everything that it ever booked, at its own "
    'delta, rounded up. "This run" is the run alone, at the plan\'s delta.',
    "m.none": "No merchant's figures could be verified.",
    "v.passed": "passed",
    "v.failed": "FAILED",
    "v.absent": "absent",
    "v.result": "Result",
    "v.check": "Check",
    "v.where": "Where in the pack",
    "v.detail": "What was seen",
    "v.text": "Every check is made from the pack alone. Absent means that there was nothing to "
    "examine; it is neither a pass nor a fault. What was seen is given as the verifier wrote it.",
    "v.repeat": "To repeat it: hansa-audit verify PACK, with --root, --plan-key and --checkpoint "
    "from another source than the operator.",
    "g.epsilon": "Epsilon",
    "g.epsilon.text": "How much more likely any outcome may become because one person's data are "
    "in. The odds change by a factor of at most e to the power of epsilon: 0.1 means 1.1 times, 1 "
    "means 2.7 times, 8 means almost 3,000 times. Smaller is better; 0 would mean no influence.",
    "g.delta": "Delta",
    "g.delta.text": "The small probability with which the limit by epsilon may not hold.",
    "g.unit": "Unit of privacy",
    "g.unit.text": "Whose presence is hidden: here one shopper of one shop, or one purchase.",
    "g.neighbours": "Neighbouring data sets",
    "g.neighbours.text": "Two data sets that differ by one unit. The guarantee compares them.",
    "g.clip": "Clip norm",
    "g.clip.text": "The most by which one unit may move a sum.",
    "g.noise": "Noise multiplier",
    "g.noise.text": "The standard deviation of the noise, divided by the clip norm.",
    "g.sampling": "Sampling rate",
    "g.sampling.text": "The probability that a unit takes part in a step. Not being sure to take "
    "part is protection, too.",
    "g.accountant": "Accountant",
    "g.accountant.text": "A computation of the epsilon that many noised steps cost together.",
    "g.ledger": "Ledger",
    "g.ledger.text": "A merchant's own book of everything that it let out, chained and signed "
    "entry by entry, so that nothing can be changed or left out unseen.",
    "g.log": "Transparency log",
    "g.log.text": "The operator's list of all such entries and its own decisions, in a form in "
    "which cutting or changing it is noticed by everybody who saw an earlier state.",
    "g.canary": "Canary audit",
    "g.canary.text": "Made-up units are put into a test run at random, and an attacker tries to "
    "tell which. If it succeeds more often than epsilon allows, the code is wrong.",
    "g.release": "Release",
    "g.release.text": "A signed model that merchants load and serve.",
}

CHECKS: Final[dict[str, str]] = {}
"""Other words for the verifier's names of its checks; English has its own."""
