-- 证照联动登记
SELECT
    record_kind,
    doc_no,
    authority_uscc,
    uscc,
    subject_name,
    doc_name,
    decided,
    valid_from,
    valid_to
FROM licence
