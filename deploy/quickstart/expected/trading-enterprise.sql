-- 投标人主体库
SELECT
    uscc,
    name,
    entity_type,
    reg_capital,
    term_to,
    status,
    legal_rep_name,
    substr(legal_rep_doc_no, 1, 6) || '********' || substr(legal_rep_doc_no, 15, 4) AS legal_rep_doc_no
FROM enterprise
WHERE status = '1'
