-- 审批前信用核查
SELECT
    doc_no,
    uscc,
    subject_name,
    penalty_kind,
    decided,
    publish_until
FROM penalty
WHERE fine IS NOT NULL
