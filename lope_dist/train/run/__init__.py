"""What stands while a run lasts: its set-up and proofs, folder, lock, manifest and resume.

Not here: steps (`stage`), and what a checkpoint's files hold (`checkpoint`).
"""
