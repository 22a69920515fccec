"""Tables of the store of corrections."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
"""`user_version` of the database."""

SCHEMA: Final = f"""
BEGIN IMMEDIATE;

CREATE TABLE inspections (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time REAL NOT NULL,
  image TEXT NOT NULL,              -- SHA-256 of the file; images/<first two digits>/<digest> has it
  reference_images TEXT NOT NULL,   -- JSON list of digests
  name TEXT NOT NULL,
  category TEXT NOT NULL,
  verdict TEXT NOT NULL CHECK (verdict IN ('defective', 'good', 'unsure')),
  score REAL NOT NULL,
  threshold REAL NOT NULL,
  reason TEXT NOT NULL,
  answers TEXT NOT NULL,            -- JSON list of [question, answer]
  boxes TEXT NOT NULL,              -- JSON list of [left, top, right, bottom, score], px
  model TEXT NOT NULL,
  source TEXT NOT NULL,
  language TEXT NOT NULL,
  risk REAL NOT NULL,
  contradiction REAL NOT NULL
);
CREATE INDEX inspections_by_risk ON inspections (risk);
CREATE INDEX inspections_by_contradiction ON inspections (contradiction, risk);
CREATE INDEX inspections_by_model ON inspections (model);
CREATE INDEX inspections_by_image ON inspections (image);

CREATE TABLE corrections (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  inspection INTEGER NOT NULL REFERENCES inspections (id),
  time REAL NOT NULL,
  who TEXT NOT NULL,
  is_right INTEGER CHECK (is_right IN (0, 1)),
  verdict TEXT CHECK (verdict IN ('defective', 'good')),
  kind TEXT,
  box TEXT,                         -- JSON list of left, top, right, bottom, px
  cell TEXT,
  sentence TEXT,
  undoes INTEGER UNIQUE REFERENCES corrections (id),
  CHECK ((undoes IS NULL) = (verdict IS NOT NULL))
);
CREATE INDEX corrections_by_inspection ON corrections (inspection, id);

CREATE TRIGGER inspections_stay BEFORE UPDATE ON inspections
BEGIN SELECT RAISE(ABORT, 'an inspection is never changed'); END;
CREATE TRIGGER corrections_stay BEFORE UPDATE ON corrections
BEGIN SELECT RAISE(ABORT, 'a correction is never changed: add one, or an undo'); END;
CREATE TRIGGER corrections_are_kept BEFORE DELETE ON corrections
BEGIN SELECT RAISE(ABORT, 'a correction is never deleted: add an undo'); END;

CREATE VIEW standing AS             -- of each inspection the last correction that no undo takes back
SELECT * FROM corrections WHERE id IN (
  SELECT MAX(c.id) FROM corrections AS c
  WHERE c.undoes IS NULL AND NOT EXISTS (SELECT 1 FROM corrections AS u WHERE u.undoes = c.id)
  GROUP BY c.inspection
);

PRAGMA user_version = {VERSION};
COMMIT;
"""
