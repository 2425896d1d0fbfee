-- 办件信用评价
SELECT
    case_no,
    item_name,
    division,
    applicant_kind,
    substr(applicant_doc_no, 1, 6) || '********' || substr(applicant_doc_no, 15, 4) AS applicant_doc_no,
    received_at,
    finished_at,
    status
FROM service_case
WHERE status = '60'
