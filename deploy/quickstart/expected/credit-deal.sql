-- 中标信用归集
SELECT
    unified_deal_code,
    section_no,
    winner_code,
    title,
    winner_name,
    winner_kind,
    amount,
    currency,
    notice_time
FROM deal
WHERE winner_kind = '1'
