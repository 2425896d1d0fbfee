-- 投标资格核查
SELECT
    record_kind,
    doc_no,
    authority_uscc,
    uscc,
    subject_name,
    violation_type,
    penalty_kind,
    fine,
    decided
FROM penalty
