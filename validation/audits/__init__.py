"""Audits of other people's implementations against the exact model.

    findings.py     what an audit says: verdicts, numbers, bounds, and the script that shows it
    subject.py      a foreign sampler as refdiff sees it, and what it claims to be
    levels.py       processes whose clock is the noise level, for grids that are given as levels
    steps.py        a sampler read step by step against the table that it claims to be;   walk.py, step.py   one by one
    told.py         the level that a network is told with each state
    rounding.py     the numbers that bounds are made of
    matching.py     which evaluation and which normal is which;   terms.py, words.py   terms and how they are called
    explained.py    the fewest weights that make a step what it is
    rows.py         a sampler as weights of start, answers and normals: its output's law, its runs, and their rounding
    reading.py      what several checks ask of a subject, read once
    checks/         what is examined, one file for each question
    protocols/      how a foreign implementation is called and what its options claim, one file for each convention
    targets.py      what is to be audited, from words on a command line;   asking.py    what is set and claimed of it
    audit.py        the runner: every subject of the targets, put to every check
    scripts.py      programs that show what is wrong by the audited library alone
    baseline.py     what is known to be wrong, so that only what is new fails
    report.py       lines for a terminal, and JSON; page.py and report.html make the page
    FINDINGS.md     what was found in released libraries

Protocols and checks know the core, the runner knows both. ADAPTERS.md says how to write a protocol.
"""
