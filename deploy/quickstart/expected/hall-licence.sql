-- 证照复用
SELECT
    record_kind,
    doc_no,
    authority_uscc,
    subject_name,
    uscc,
    licence_kind,
    licence_cert_no,
    content,
    decided,
    valid_to,
    status
FROM licence
